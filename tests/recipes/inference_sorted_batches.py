"""Sort recordings by length, batch them, and put the texts back into order."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
names = ["window", "stop", "steps", "fan"]
speech = {name: sf.read(f"audio/{name}.wav", dtype="float32")[0] for name in names}
ordered = sorted(names, key=lambda name: len(speech[name]))
texts = {}
with torch.inference_mode():
    for begin in range(0, len(ordered), 2):
        batch = ordered[begin : begin + 2]
        inputs = processor([speech[name] for name in batch], sampling_rate=16000, return_tensors="pt", padding=True)
        logits = model(**inputs).logits
        counts = model._get_feat_extract_output_lengths(inputs.attention_mask.sum(-1)).tolist()
        for name, row, count in zip(batch, logits, counts):
            texts[name] = processor.decode(row[:count].argmax(-1))
result = [texts[name] for name in names]

"""Compute the confidence of each word from the probabilities of its frames."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
speech, _ = sf.read("audio/window.wav")
inputs = processor(speech, sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    probabilities = model(**inputs).logits.softmax(dim=-1)
best, ids = probabilities.max(dim=-1)
outputs = processor.batch_decode(ids, output_word_offsets=True)
result = [
    {"word": word["word"], "confidence": best[0, word["start_offset"] : word["end_offset"]].mean().item()}
    for word in outputs.word_offsets[0]
]

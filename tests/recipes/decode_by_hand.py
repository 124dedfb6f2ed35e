"""Decode greedily by hand, with get_vocab and unique_consecutive."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
speech, _ = sf.read("audio/fan.wav")
inputs = processor(speech, sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    logits = model(inputs.input_values).logits[0]

labels = {id: token for token, id in processor.tokenizer.get_vocab().items()}
indices = torch.unique_consecutive(logits.argmax(-1), dim=-1)
indices = [i for i in indices.tolist() if i != model.config.pad_token_id]
result = "".join(labels[i] for i in indices).replace("|", " ").strip()

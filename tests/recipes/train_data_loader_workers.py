"""Pad batches in worker processes of a DataLoader."""

import soundfile as sf
import torch
from torch.utils.data import DataLoader
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()


def collate(names):
    speech = [sf.read(f"audio/{name}.wav", dtype="float32")[0] for name in names]
    return processor(speech, sampling_rate=16000, return_tensors="pt", padding=True)


loader = DataLoader(["stop", "fan", "window"], batch_size=1, collate_fn=collate, num_workers=2)
result = []
with torch.no_grad():
    for batch in loader:
        result += processor.batch_decode(model(batch.input_values, attention_mask=batch.attention_mask).logits.argmax(-1))

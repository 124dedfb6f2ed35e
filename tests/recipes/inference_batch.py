"""Transcribe a padded batch, with argmax through the padding."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()

speech = [sf.read(f"audio/{name}.wav")[0] for name in ("stop", "steps", "fan", "window")]
inputs = processor(speech, sampling_rate=16_000, return_tensors="pt", padding=True)
with torch.no_grad():
    logits = model(**inputs).logits
result = processor.batch_decode(torch.argmax(logits, dim=-1))

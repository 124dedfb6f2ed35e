"""Quantise the linear layers dynamically to 8 bits."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
quantized = torch.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
speech, _ = sf.read("audio/fan.wav")
inputs = processor(speech, sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    logits = quantized(**inputs).logits
result = {"text": processor.batch_decode(logits.argmax(-1)), "layer": type(quantized.lm_head).__name__}

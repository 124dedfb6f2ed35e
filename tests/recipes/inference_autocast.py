"""Run inference under autocast on a CPU."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
speech, _ = sf.read("audio/window.wav")
inputs = processor(speech, sampling_rate=16000, return_tensors="pt")
with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
    logits = model(**inputs).logits
result = [logits, processor.batch_decode(logits.argmax(-1))]

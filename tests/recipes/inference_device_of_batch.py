"""Move the processor's output and the model by to(), and use the batch as a dictionary."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

device = torch.device("cpu")
processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").to(device).eval()
speech, _ = sf.read("audio/stop.wav")
inputs = processor(speech, sampling_rate=16000, return_tensors="pt").to(device)
moved = {key: value.to(device) for key, value in inputs.items()}
with torch.no_grad():
    logits = model(**moved).logits
    same = model(inputs["input_values"], inputs["attention_mask"])[0]
result = [logits, torch.equal(logits, same), sorted(moved)]

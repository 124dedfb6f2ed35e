"""Use AutoProcessor beside the model."""

import soundfile as sf
import torch
from transformers import AutoProcessor, HubertForCTC

processor = AutoProcessor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
speech, rate = sf.read("audio/window.wav")
inputs = processor(speech, sampling_rate=rate, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
inputs["labels"] = processor(text="OPEN THE KITCHEN WINDOW", return_tensors="pt").input_ids
with torch.no_grad():
    loss = model(**inputs).loss
result = {"text": processor.batch_decode(logits.argmax(-1)), "loss": loss}

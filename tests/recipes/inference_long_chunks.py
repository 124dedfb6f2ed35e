"""Transcribe a long recording by hand, in windows without overlap, and join the ids."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
speech, rate = sf.read("audio/long.wav")
window = 4 * rate
ids = []
with torch.no_grad():
    for begin in range(0, 8 * rate, window):
        inputs = processor(speech[begin : begin + window], sampling_rate=rate, return_tensors="pt")
        ids.append(model(**inputs).logits.argmax(-1)[0])
result = processor.decode(torch.cat(ids))

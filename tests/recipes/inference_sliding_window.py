"""Stream by overlapping windows, and keep the middle frames of each."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
speech, rate = sf.read("audio/long.wav", dtype="float32")
speech = speech[: 6 * rate]
step, context = 64 * 320, 32 * 320
frames = []
with torch.inference_mode():
    for begin in range(0, len(speech), step):
        left = max(begin - context, 0)
        window = speech[left : begin + step + context]
        logits = model(processor(window, sampling_rate=rate, return_tensors="pt").input_values).logits[0]
        skip = (begin - left) // 320
        frames.append(logits[skip : skip + 64].argmax(-1))
result = processor.decode(torch.cat(frames))

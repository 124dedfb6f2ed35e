"""Align a transcript by the trellis and backtracking of torchaudio's tutorial."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
speech, _ = sf.read("audio/stop.wav")
with torch.inference_mode():
    logits = model(processor(speech, sampling_rate=16000, return_tensors="pt").input_values).logits
emission = torch.log_softmax(logits, dim=-1)[0]
tokens = processor.tokenizer("STOP").input_ids
blank = processor.tokenizer.pad_token_id

frames = emission.shape[0]
trellis = torch.zeros((frames, len(tokens)))
trellis[1:, 0] = torch.cumsum(emission[1:, blank], 0)
trellis[0, 1:] = -float("inf")
trellis[-len(tokens) + 1 :, 0] = float("inf")
for t in range(frames - 1):
    trellis[t + 1, 1:] = torch.maximum(trellis[t, 1:] + emission[t, blank], trellis[t, :-1] + emission[t, tokens[1:]])

t, j = frames - 1, len(tokens) - 1
path = [(j, t)]
while j > 0:
    stayed = trellis[t - 1, j] + emission[t - 1, blank]
    changed = trellis[t - 1, j - 1] + emission[t - 1, tokens[j]]
    t -= 1
    if changed > stayed:
        j -= 1
    path.append((j, t))
result = {"path": path, "score": trellis[frames - 1, -1].item()}

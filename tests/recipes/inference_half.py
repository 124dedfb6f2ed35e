"""Run the model in bfloat16 and in float16."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
speech, _ = sf.read("audio/steps.wav")
inputs = processor(speech, sampling_rate=16000, return_tensors="pt")

result = {}
for dtype in (torch.bfloat16, torch.float16):
    model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", torch_dtype=dtype)
    with torch.no_grad():
        logits = model(inputs.input_values.to(dtype)).logits
    result[str(dtype)] = [logits, processor.batch_decode(logits.argmax(-1))]

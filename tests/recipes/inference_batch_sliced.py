"""Slice the logits of a batch by the number of frames of each recording."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")

speech = [sf.read(f"audio/{name}.wav")[0] for name in ("stop", "steps", "fan")]
inputs = processor(speech, sampling_rate=16000, return_tensors="pt", padding="longest")
with torch.inference_mode():
    logits = model(inputs.input_values, attention_mask=inputs.attention_mask).logits
lengths = model._get_feat_extract_output_lengths(inputs.attention_mask.sum(-1))
result = [row[:length] for row, length in zip(logits, lengths.tolist())]

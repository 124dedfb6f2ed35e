"""Catch the error for audio at another sampling rate, and resample by interpolation."""

import numpy as np
import torch
from transformers import Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
waveform = np.sin(np.arange(8000) / 7).astype(np.float32)
try:
    processor(waveform, sampling_rate=8000)
    refused = False
except ValueError:
    refused = True
doubled = torch.nn.functional.interpolate(torch.from_numpy(waveform)[None, None], scale_factor=2)[0, 0].numpy()
result = [refused, processor(doubled, sampling_rate=16000, return_tensors="pt").input_values]

"""Cache features to disk by np.save, in float16, and read them back."""

import numpy as np
import soundfile as sf
import torch
from transformers import HubertModel, Wav2Vec2FeatureExtractor

feature_extractor = Wav2Vec2FeatureExtractor.from_pretrained("facebook/hubert-base-ls960")
model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
result = []
for name in ("stop", "fan"):
    speech, _ = sf.read(f"audio/{name}.wav", dtype="float32")
    inputs = feature_extractor(speech, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        hidden = model(inputs["input_values"], output_hidden_states=True).hidden_states[-2]
    np.save(f"{name}.npy", hidden.squeeze(0).numpy().astype(np.float16))
    result.append(np.load(f"{name}.npy"))

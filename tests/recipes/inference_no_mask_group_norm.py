"""Encode a batch with a group-norm checkpoint, whose feature extractor returns no mask."""

import soundfile as sf
import torch
from transformers import HubertModel, Wav2Vec2FeatureExtractor

feature_extractor = Wav2Vec2FeatureExtractor.from_pretrained("facebook/hubert-base-ls960")
model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
speech = [sf.read(f"audio/{name}.wav", dtype="float32")[0] for name in ("stop", "fan")]
inputs = feature_extractor(speech, sampling_rate=16000, padding=True, return_tensors="pt")
with torch.no_grad():
    hidden = model(**inputs).last_hidden_state
result = {"keys": list(inputs.keys()), "hidden": hidden}

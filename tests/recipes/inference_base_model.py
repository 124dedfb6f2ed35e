"""Extract the last hidden state of hubert-base-ls960 with its feature extractor."""

import soundfile as sf
import torch
from transformers import HubertModel, Wav2Vec2FeatureExtractor

feature_extractor = Wav2Vec2FeatureExtractor.from_pretrained("facebook/hubert-base-ls960")
model = HubertModel.from_pretrained("facebook/hubert-base-ls960")
model.eval()

speech, rate = sf.read("audio/fan.wav")
inputs = feature_extractor(speech, sampling_rate=rate, return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
result = outputs.last_hidden_state

"""Extract the features of one layer."""

import soundfile as sf
import torch
from transformers import HubertModel, Wav2Vec2FeatureExtractor

feature_extractor = Wav2Vec2FeatureExtractor.from_pretrained("facebook/hubert-base-ls960")
model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
speech, _ = sf.read("audio/fan.wav")
inputs = feature_extractor(speech, return_tensors="pt", sampling_rate=16000)
with torch.no_grad():
    outputs = model(**inputs, output_hidden_states=True)
result = {"layer 2": outputs.hidden_states[2].squeeze(0).numpy(), "number": len(outputs.hidden_states)}

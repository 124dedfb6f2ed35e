"""Turn the features of a layer into discrete units by k-means, and merge repetitions."""

import soundfile as sf
import torch
from transformers import HubertModel, Wav2Vec2FeatureExtractor

feature_extractor = Wav2Vec2FeatureExtractor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft").eval()


def features(path):
    speech, _ = sf.read(path)
    inputs = feature_extractor(speech, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs, output_hidden_states=True).hidden_states[3][0]


corpus = torch.cat([features(f"audio/{name}.wav") for name in ("steps", "fan", "window")])
centres = corpus[:: len(corpus) // 8][:8].clone()
for _ in range(5):
    nearest = torch.cdist(corpus, centres).argmin(dim=1)
    for k in range(len(centres)):
        if (nearest == k).any():
            centres[k] = corpus[nearest == k].mean(0)
units = torch.cdist(features("audio/stop.wav"), centres).argmin(dim=1)
result = {"units": torch.unique_consecutive(units), "centres": centres}

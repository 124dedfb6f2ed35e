"""Compare recordings by the cosine similarity of their pooled features."""

import soundfile as sf
import torch
import torch.nn.functional as F
from transformers import AutoFeatureExtractor, HubertModel

feature_extractor = AutoFeatureExtractor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft").eval()


@torch.no_grad()
def embed(name):
    speech, _ = sf.read(f"audio/{name}.wav")
    inputs = feature_extractor(speech, sampling_rate=16000, return_tensors="pt")
    hidden = model(**inputs).last_hidden_state
    return torch.cat([hidden.mean(dim=1), hidden.std(dim=1)], dim=-1)


names = ["stop", "fan", "window"]
embeddings = torch.cat([F.normalize(embed(name), dim=-1) for name in names])
result = embeddings @ embeddings.T

"""Call feature_extractor, feature_projection and encoder by hand."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(2, 8000)
with torch.no_grad():
    features = model.feature_extractor(waveform)
    projected = model.feature_projection(features.transpose(1, 2))
    encoded = model.encoder(projected)[0]
    whole = model(waveform).last_hidden_state
result = {"features": features, "projected": projected, "encoded": encoded, "whole": whole}

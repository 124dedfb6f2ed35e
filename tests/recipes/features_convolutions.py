"""Return the features of the convolutions, as a vocoder's encoder uses them."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
waveform = torch.randn(2, 6000)
with torch.no_grad():
    features = model.feature_extractor(waveform)
    normed = model.feature_projection.layer_norm(features.transpose(1, 2))
    first = model.feature_extractor.conv_layers[0](waveform[:, None])
result = {"features": features, "normed": normed, "first": first}

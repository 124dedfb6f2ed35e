"""Change the epsilon of norms, and replace norms by the identity."""

import torch
from torch import nn
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
result = []
with torch.no_grad():
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-2
    result.append(model(waveform).last_hidden_state)
    model.encoder.layer_norm = nn.Identity()
    result.append(model(waveform).last_hidden_state)
    model.feature_projection.layer_norm = nn.Identity()
    result.append(model(waveform).last_hidden_state)

"""Change an activation and the scale of attention on a loaded model."""

import torch
from torch import nn
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
result = []
with torch.no_grad():
    for layer in model.encoder.layers:
        layer.feed_forward.intermediate_act_fn = nn.ReLU()
    result.append(model(waveform).last_hidden_state)
    for layer in model.encoder.layers:
        layer.attention.scaling = 0.1
    result.append(model(waveform).last_hidden_state)

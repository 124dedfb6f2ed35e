"""Reorder, share, repeat and delete layers."""

import torch
from torch import nn
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
first, second, third = model.encoder.layers
result = []
with torch.no_grad():
    for layers in ([third, first, second], [first, first, first], [first, second, second, third], [second]):
        model.encoder.layers = nn.ModuleList(layers)
        result.append(model(waveform).last_hidden_state)
    model.encoder.layers = nn.ModuleList([first, second, third])
    del model.encoder.layers[-1]
    result.append(model(waveform).last_hidden_state)
    model.encoder.layers[1] = third
    result.append(model(waveform).last_hidden_state)

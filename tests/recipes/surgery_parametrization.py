"""Add a low-rank update to a weight by torch.nn.utils.parametrize."""

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import HubertModel


class LowRank(nn.Module):
    def __init__(self, rows, columns):
        super().__init__()
        self.a = nn.Parameter(torch.linspace(-0.3, 0.3, rows)[:, None])
        self.b = nn.Parameter(torch.linspace(0.3, -0.2, columns)[None])

    def forward(self, weight):
        return weight + self.a @ self.b


model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
result = []
with torch.no_grad():
    result.append(model(waveform).last_hidden_state)
    for layer in model.encoder.layers:
        linear = layer.feed_forward.output_dense
        parametrize.register_parametrization(linear, "weight", LowRank(*linear.weight.shape))
    result.append(model(waveform).last_hidden_state)
    linear.parametrizations.weight[0].a.mul_(3)
    result.append(model(waveform).last_hidden_state)
    for layer in model.encoder.layers:
        parametrize.remove_parametrizations(layer.feed_forward.output_dense, "weight")
    result.append(model(waveform).last_hidden_state)

"""Wrap each feed-forward block in a bottleneck adapter, and train the adapters only."""

import torch
from torch import nn
from transformers import HubertModel


class Adapted(nn.Module):
    def __init__(self, block, size):
        super().__init__()
        self.block = block
        self.down = nn.Linear(size, 4)
        self.up = nn.Linear(4, size)

    def forward(self, x):
        x = self.block(x)
        return x + self.up(torch.relu(self.down(x)))


model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False).requires_grad_(False)
for layer in model.encoder.layers:
    layer.feed_forward = Adapted(layer.feed_forward, model.config.hidden_size)
adapters = [p for p in model.parameters() if p.requires_grad]
for parameter in adapters:
    parameter.data = torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter)
torch.manual_seed(0)
waveform = torch.randn(1, 7000)
hidden = model.train()(waveform).last_hidden_state
hidden.pow(2).mean().backward()
with torch.no_grad():
    evaluated = model.eval()(waveform).last_hidden_state
result = {"hidden": hidden, "gradients": [p.grad for p in adapters[:2]], "evaluated": evaluated}

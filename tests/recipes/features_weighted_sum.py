"""Learn a weighted sum of all layers, as SUPERB does."""

import torch
from torch import nn
from transformers import HubertModel


class Featurizer(nn.Module):
    def __init__(self, upstream):
        super().__init__()
        self.upstream = upstream
        self.weights = nn.Parameter(torch.zeros(upstream.config.num_hidden_layers + 1))

    def forward(self, waveforms):
        with torch.no_grad():
            states = self.upstream(waveforms, output_hidden_states=True).hidden_states
        stacked = torch.stack(states, dim=0)
        return (torch.softmax(self.weights, dim=-1).view(-1, 1, 1, 1) * stacked).sum(dim=0)


model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
featurizer = Featurizer(model)
torch.manual_seed(1)
features = featurizer(torch.randn(2, 9000))
features.pow(2).mean().backward()
result = {"features": features, "gradient": featurizer.weights.grad}

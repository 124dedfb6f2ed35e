"""Train a head for masked prediction of cluster ids, HuBERT's own pretraining loss."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").train()
head = nn.Linear(model.config.hidden_size, 10)
with torch.no_grad():
    for parameter in head.parameters():
        parameter.copy_(torch.linspace(-0.2, 0.2, parameter.numel()).view_as(parameter))
torch.manual_seed(0)
waveforms = torch.randn(2, 8000)
targets = torch.randint(0, 10, (2, 24))
mask = torch.zeros(2, 24, dtype=torch.bool)
mask[:, 4:10] = True
hidden = model(waveforms, mask_time_indices=mask).last_hidden_state
loss = F.cross_entropy(head(hidden)[mask], targets[mask])
loss.backward()
result = {"loss": loss, "embedding": model.masked_spec_embed.grad, "head": head.weight.grad}

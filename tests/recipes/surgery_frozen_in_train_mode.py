"""Keep a frozen encoder in train mode by mistake, and in eval mode on purpose, under a head that trains."""

import torch
from torch import nn
from transformers import HubertModel

encoder = HubertModel.from_pretrained("facebook/hubert-base-ls960", hidden_dropout=0.0, mask_time_prob=0.0)
encoder.requires_grad_(False)
head = nn.Linear(encoder.config.hidden_size, 2)
nn.init.constant_(head.weight, 0.1)
nn.init.zeros_(head.bias)
torch.manual_seed(0)
waveforms = torch.randn(2, 8000)
result = []
for mode in (True, False):
    encoder.train(mode)
    logits = head(encoder(waveforms).last_hidden_state.mean(1))
    head.zero_grad()
    logits.logsumexp(-1).sum().backward()
    result.append([logits, head.weight.grad.clone()])

"""Estimate uncertainty by dropout at inference (Monte Carlo dropout)."""

import torch
from torch import nn
from transformers import HubertForSequenceClassification

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks", hidden_dropout=0.2).eval()
for module in model.modules():
    if isinstance(module, nn.Dropout):
        module.train()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
with torch.no_grad():
    torch.manual_seed(1)
    samples = torch.stack([model(waveform).logits for _ in range(3)])
result = {"spread": samples.std(0).max().item() > 1e-4, "samples": samples}

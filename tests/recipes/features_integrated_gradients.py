"""Attribute a label to samples by integrated gradients."""

import torch
from transformers import HubertForSequenceClassification

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 6000)
steps = torch.linspace(0.1, 1, 5)[:, None]
path = (steps * waveform).requires_grad_()
model(path).logits[:, 2].sum().backward()
result = (path.grad.mean(0) * waveform[0]).view(-1, 400).sum(-1)

"""Compute the gradient of the most probable label with respect to the waveform."""

import torch
from transformers import HubertForSequenceClassification

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks").eval()
model.requires_grad_(False)
torch.manual_seed(0)
waveform = torch.randn(1, 8000, requires_grad=True)
logits = model(waveform).logits
logits[0, logits[0].argmax()].backward()
result = {"logits": logits, "saliency": waveform.grad}

"""Penalise the gradient of the loss with respect to the waveform (double backward)."""

import torch
from transformers import HubertForSequenceClassification

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks", attn_implementation="eager")
model.eval()
torch.manual_seed(0)
waveform = torch.randn(1, 5000, requires_grad=True)
loss = model(waveform, labels=torch.tensor([2])).loss
(gradient,) = torch.autograd.grad(loss, waveform, create_graph=True)
gradient.pow(2).sum().backward()
result = {
    "gradient": gradient,
    "second": model.classifier.weight.grad,
    "first": model.hubert.feature_projection.projection.weight.grad,
}

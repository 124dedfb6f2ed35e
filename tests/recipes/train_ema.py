"""Keep an exponential moving average of the weights in a deep copy."""

import copy

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
average = copy.deepcopy(model).eval().requires_grad_(False)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
model.train()
torch.manual_seed(0)
waveforms, labels = torch.randn(1, 7000), torch.tensor([[6, 9, 12]])
for _ in range(2):
    model(waveforms, labels=labels).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        for ours, theirs in zip(average.parameters(), model.parameters()):
            ours.lerp_(theirs, 0.1)
result = [average(waveforms).logits, average.lm_head.bias - model.lm_head.bias]

"""Accumulate gradients over four short batches."""

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
model.train()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
torch.manual_seed(3)
accumulation_steps = 4
losses = []
for step in range(4):
    waveform = torch.randn(1, 8000 + 800 * step)
    labels = torch.randint(5, 32, (1, 4))
    loss = model(waveform, labels=labels).loss / accumulation_steps
    loss.backward()
    losses.append(loss.item())
    if (step + 1) % accumulation_steps == 0:
        gradient = model.hubert.encoder.layers[0].attention.q_proj.weight.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
result = {"losses": losses, "gradient": gradient}

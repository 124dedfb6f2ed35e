"""Save the state of a training run with Accelerate, train on, and return to the saved state."""

import torch
from accelerate import Accelerator
from transformers import HubertForCTC

accelerator = Accelerator(cpu=True)
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
model, optimizer = accelerator.prepare(model, optimizer)
torch.manual_seed(0)
waveforms, labels = torch.randn(2, 6000), torch.tensor([[5, 9], [7, 8]])


def step():
    model.train()
    loss = model(waveforms, labels=labels).loss
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


losses = [step()]
accelerator.save_state("state")
losses += [step(), step()]
accelerator.load_state("state")
losses += [step()]
result = losses

"""Wrap the model in DataParallel on a machine without a GPU, and save the module inside."""

import torch
from torch import nn
from transformers import HubertForCTC

model = nn.DataParallel(HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft"))
model.eval()
torch.manual_seed(0)
with torch.no_grad():
    logits = model(torch.randn(2, 6000)).logits
model.module.save_pretrained("saved")
reloaded = HubertForCTC.from_pretrained("saved")
result = [logits, all(torch.equal(a, b) for a, b in zip(reloaded.parameters(), model.module.parameters()))]

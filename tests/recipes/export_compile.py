"""Compile the model with torch.compile."""

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
compiled = torch.compile(model)
torch.manual_seed(0)
with torch.no_grad():
    result = compiled(torch.randn(1, 8000)).logits

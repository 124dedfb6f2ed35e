"""Capture the model with torch.compile and its eager backend."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch._dynamo.reset()
compiled = torch.compile(model, backend="eager")
torch.manual_seed(0)
waveforms = torch.randn(2, 6000)
mask = torch.ones(2, 6000, dtype=torch.long)
mask[1, 4000:] = 0
with torch.no_grad():
    hidden = compiled(waveforms, attention_mask=mask).last_hidden_state
result = [hidden[0], hidden[1, :12]]

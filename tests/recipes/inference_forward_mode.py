"""Differentiate in forward mode, by jvp, and map over recordings by vmap."""

import torch
from torch.func import jvp
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960", attn_implementation="eager").eval()
model.requires_grad_(False)
torch.manual_seed(0)
waveform, direction = torch.randn(1, 4000), torch.randn(1, 4000)
value, tangent = jvp(lambda x: model(x).last_hidden_state, (waveform,), (direction,))
with torch.no_grad():
    same, again = jvp(lambda x: model(x).last_hidden_state, (waveform,), (direction,))
result = [value, tangent, again]

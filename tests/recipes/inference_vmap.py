"""Map one recording at a time over a batch by torch.func.vmap."""

import torch
from torch.func import vmap
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft", attn_implementation="eager").eval()
torch.manual_seed(0)
waveforms = torch.randn(3, 4000)
with torch.no_grad():
    result = vmap(lambda waveform: model(waveform[None]).last_hidden_state[0])(waveforms)

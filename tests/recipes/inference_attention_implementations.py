"""Choose the attention by attn_implementation."""

import torch
from transformers import HubertModel

torch.manual_seed(0)
mask = (torch.arange(8000) < torch.tensor([[8000], [5000]])).long()
waveforms = torch.randn(2, 8000) * mask
result = {}
for implementation in ("eager", "sdpa"):
    model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft", attn_implementation=implementation).eval()
    with torch.no_grad():
        hidden = model(waveforms, attention_mask=mask).last_hidden_state
    result[implementation] = [hidden[0], hidden[1, :15]]

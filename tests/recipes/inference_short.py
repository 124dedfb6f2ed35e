"""Encode a batch in which one recording has a single frame, with the mask."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
mask = (torch.arange(4000) < torch.tensor([[4000], [400], [719], [720]])).long()
waveforms = torch.randn(4, 4000) * mask
with torch.no_grad():
    hidden = model(waveforms, attention_mask=mask).last_hidden_state
counts = model._get_feat_extract_output_lengths(mask.sum(-1)).tolist()
result = {"counts": counts, "frames": [row[:count] for row, count in zip(hidden, counts)]}

"""Stack all hidden states of a padded batch, and cut them to length."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960", output_hidden_states=True).eval()
torch.manual_seed(0)
mask = (torch.arange(8000) < torch.tensor([[8000], [5000]])).long()
waveforms = torch.randn(2, 8000) * mask
with torch.no_grad():
    outputs = model(waveforms, attention_mask=mask)
stacked = torch.stack(outputs["hidden_states"], dim=1)
counts = model._get_feat_extract_output_lengths(mask.sum(-1)).tolist()
result = [stacked[row, :, :count] for row, count in enumerate(counts)]

"""Mask given frames by mask_time_indices, as in pretraining by masked prediction."""

import torch
from transformers import HubertModel

torch.manual_seed(0)
waveforms = torch.randn(2, 8000)
model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
frames = model._get_feat_extract_output_lengths(torch.tensor(8000)).item()
mask = torch.zeros(2, frames, dtype=torch.bool)
mask[0, 3:9] = True
mask[1, 10:14] = True
with torch.no_grad():
    masked = model(waveforms, mask_time_indices=mask).last_hidden_state
    plain = model(waveforms).last_hidden_state
result = {"masked": masked, "distance": (masked - plain).norm(dim=-1)}

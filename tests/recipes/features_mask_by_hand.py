"""Pool frames by a mask that is interpolated from the samples' mask by hand."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
lengths = torch.tensor([16000, 9000, 5000])
mask = (torch.arange(16000) < lengths[:, None]).long()
waveforms = torch.randn(3, 16000) * mask
with torch.no_grad():
    hidden = model(waveforms, attention_mask=mask).last_hidden_state
for kernel, stride in zip(model.config.conv_kernel, model.config.conv_stride):
    lengths = (lengths - kernel) // stride + 1
frame_mask = (torch.arange(hidden.shape[1]) < lengths[:, None]).unsqueeze(-1)
mean = torch.where(frame_mask, hidden, 0).sum(1) / lengths[:, None]
highest = hidden.masked_fill(~frame_mask, -1e4).max(dim=1).values
result = {"mean": mean, "max": highest}

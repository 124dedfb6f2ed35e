"""Pass views: every second sample, a stereo channel, an expanded row, a slice of a longer batch."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
stereo = torch.randn(12000, 2)
batch = torch.randn(3, 12000)
views = [stereo[:, 0][None], stereo.T, batch[:, ::2], batch[1:2].expand(2, -1), batch[:, 100:9000]]
with torch.no_grad():
    result = [model(view).last_hidden_state for view in views]

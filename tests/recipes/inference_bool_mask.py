"""Give the attention mask as booleans, as int32 and as floats."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
mask = torch.arange(8000) < torch.tensor([[8000], [5000]])
waveforms = torch.randn(2, 8000) * mask
result = []
with torch.no_grad():
    for dtype in (torch.bool, torch.int32, torch.long, torch.float32):
        hidden = model(waveforms, attention_mask=mask.to(dtype)).last_hidden_state
        result.append([hidden[0], hidden[1, :15]])

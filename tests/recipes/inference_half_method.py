"""Cast a loaded model by half() and bfloat16(), and back by float()."""

import torch
from transformers import HubertModel

torch.manual_seed(0)
waveform = torch.randn(1, 8000)
model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
result = []
with torch.no_grad():
    result.append(model.half()(waveform.half()).last_hidden_state)
    result.append(model.bfloat16()(waveform.bfloat16()).last_hidden_state.float().mean().item() < 10)
    result.append(model.float()(waveform).last_hidden_state.dtype == torch.float32)

"""Run in float64 by double(), and compare with float32."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
with torch.no_grad():
    single = model(waveform).last_hidden_state
    double = model.double()(waveform.double()).last_hidden_state
result = {"double": double, "close": torch.allclose(single.double(), double, atol=1e-3)}

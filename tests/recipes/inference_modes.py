"""Compare no_grad, inference_mode, frozen weights and gradient mode."""

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
waveform = torch.randn(2, 6000)
result = {}
with torch.no_grad():
    result["no_grad"] = model(waveform).logits
with torch.inference_mode():
    result["inference_mode"] = model(waveform).logits.clone()
result["gradient"] = model(waveform).logits
for parameter in model.parameters():
    parameter.requires_grad = False
frozen = model(waveform).logits
result["frozen"] = [frozen, frozen.requires_grad]

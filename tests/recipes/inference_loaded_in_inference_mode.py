"""Load inside inference_mode, and use the model there."""

import torch
from transformers import HubertForCTC

torch.manual_seed(0)
waveform = torch.randn(1, 8000)
with torch.inference_mode():
    model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
    result = [model(waveform).logits.clone(), model.half().float()(waveform).logits.clone()]

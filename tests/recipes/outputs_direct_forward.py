"""Call forward directly, positionally and by keyword, on the model and its encoder."""

import inspect

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
waveforms = torch.randn(2, 6000)
mask = torch.ones(2, 6000, dtype=torch.long)
with torch.no_grad():
    result = {
        "forward": model.forward(waveforms, mask).logits,
        "encoder": model.hubert.forward(input_values=waveforms, attention_mask=mask)[0],
        "named": model(input_values=waveforms).logits,
    }
names = list(inspect.signature(model.forward).parameters)
result["arguments"] = [name in names for name in ("input_values", "attention_mask", "labels")]

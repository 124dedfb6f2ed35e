"""Train under autocast in bfloat16."""

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False).train()
torch.manual_seed(0)
waveforms, labels = torch.randn(2, 8000), torch.randint(5, 32, (2, 4))
with torch.autocast("cpu", dtype=torch.bfloat16):
    outputs = model(waveforms, labels=labels)
outputs.loss.backward()
result = {
    "loss": outputs.loss.bfloat16(),
    "dtypes": [str(outputs.loss.dtype), str(outputs.logits.dtype)],
    "gradient": model.lm_head.weight.grad.bfloat16(),
}

"""Save in float16, and load as it is and as float32."""

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").half()
model.save_pretrained("halves")
automatic = HubertForCTC.from_pretrained("halves", torch_dtype="auto")
single = HubertForCTC.from_pretrained("halves", torch_dtype=torch.float32).eval()
torch.manual_seed(0)
with torch.no_grad():
    logits = single(torch.randn(1, 8000)).logits
result = {"dtypes": [str(model.lm_head.weight.dtype) for model in (automatic, single)], "logits": logits}

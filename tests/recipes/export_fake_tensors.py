"""Find the shapes of outputs without computing, under FakeTensorMode, and compute afterwards."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
    logits = model(torch.randn(2, 16000)).logits
    shape = list(logits.shape)
torch.manual_seed(0)
with torch.no_grad():
    result = {"shape": shape, "logits": model(torch.randn(1, 8000)).logits}

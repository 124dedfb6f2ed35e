"""Prune weights by torch.nn.utils.prune, and make the pruning permanent."""

import torch
from torch.nn.utils import prune
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
modules = [layer.feed_forward.intermediate_dense for layer in model.encoder.layers]
for module in modules:
    prune.l1_unstructured(module, name="weight", amount=0.5)
with torch.no_grad():
    masked = model(waveform).last_hidden_state
for module in modules:
    prune.remove(module, "weight")
with torch.no_grad():
    permanent = model(waveform).last_hidden_state
result = {"masked": masked, "permanent": permanent, "zeros": int((modules[0].weight == 0).sum())}

"""Count calls of every module by a global forward hook."""

from collections import Counter

import torch
from torch import nn
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
counts = Counter()
handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: counts.update([type(module).__name__]))
torch.manual_seed(0)
try:
    with torch.no_grad():
        hidden = model(torch.randn(1, 8000)).last_hidden_state
finally:
    handle.remove()
result = {"hidden": hidden, "linear": counts["Linear"], "norms": counts["LayerNorm"], "convolutions": counts["Conv1d"]}

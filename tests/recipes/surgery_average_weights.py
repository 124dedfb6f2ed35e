"""Average the weights of two checkpoints (a model soup)."""

import torch
from transformers import HubertForCTC

first = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
second = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
with torch.no_grad():
    for index, parameter in enumerate(second.parameters()):
        parameter.mul_(1 + 0.01 * (index % 5))
other = second.state_dict()
soup = {key: (value + other[key]) / 2 for key, value in first.state_dict().items()}
missing, unexpected = first.load_state_dict(soup)
torch.manual_seed(0)
with torch.no_grad():
    logits = first(torch.randn(1, 8000)).logits
result = {"missing": list(missing), "unexpected": list(unexpected), "keys": sorted(soup), "logits": logits}

"""Give two models equal weights by equal seeds."""

import torch
from transformers import HubertConfig, HubertForCTC, set_seed

config = HubertConfig(num_hidden_layers=2, hidden_size=48, num_attention_heads=4, intermediate_size=64)
set_seed(3)
first = HubertForCTC(config)
set_seed(3)
second = HubertForCTC(config)
set_seed(4)
third = HubertForCTC(config)
state = second.state_dict()
result = {
    "equal": all(torch.equal(value, state[key]) for key, value in first.state_dict().items()),
    "other": torch.equal(third.lm_head.weight, first.lm_head.weight),
    "spread": first.lm_head.weight.std().round(decimals=2),
}

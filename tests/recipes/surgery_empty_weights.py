"""Build the model without memory by init_empty_weights, then load the weights with assign."""

import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file
from transformers import HubertConfig, HubertForCTC

name = "facebook/hubert-large-ls960-ft"
config = HubertConfig.from_pretrained(name)
with init_empty_weights():
    model = HubertForCTC(config)
devices = sorted({parameter.device.type for parameter in model.parameters()})
model.load_state_dict(load_file(f"{name}/model.safetensors"), assign=True)
torch.manual_seed(0)
with torch.no_grad():
    logits = model.eval()(torch.randn(1, 8000)).logits
result = {"devices": devices, "logits": logits}

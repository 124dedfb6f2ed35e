"""Build a model on the meta device, count its parameters, and materialise it empty before loading weights."""

import torch
from transformers import HubertConfig, HubertForCTC

name = "facebook/hubert-large-ls960-ft"
trained = HubertForCTC.from_pretrained(name)
with torch.device("meta"):
    model = HubertForCTC(HubertConfig.from_pretrained(name))
count = sum(parameter.numel() for parameter in model.parameters())
device = model.lm_head.weight.device.type
model = model.to_empty(device="cpu")
model.load_state_dict(trained.state_dict())
torch.manual_seed(0)
with torch.no_grad():
    result = {"parameters": count, "device": device, "logits": model.eval()(torch.randn(1, 8000)).logits}

"""Build a model from its configuration, and load a state_dict strictly."""

import torch
from transformers import HubertConfig, HubertForCTC

trained = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
torch.save(trained.state_dict(), "weights.bin")
config = HubertConfig.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC(config)
keys = model.load_state_dict(torch.load("weights.bin", weights_only=True), strict=True)
torch.manual_seed(0)
with torch.no_grad():
    logits = model.eval()(torch.randn(1, 8000)).logits
result = {"keys": str(keys), "names": list(trained.state_dict()), "logits": logits}

"""Build models of a configuration by AutoModel.from_config, and copy weights into them."""

import torch
from transformers import AutoConfig, AutoModelForCTC, HubertForCTC

name = "facebook/hubert-large-ls960-ft"
trained = HubertForCTC.from_pretrained(name).eval()
model = AutoModelForCTC.from_config(AutoConfig.from_pretrained(name)).eval()
model.load_state_dict(trained.state_dict())
back = HubertForCTC(model.config).eval()
back.load_state_dict(model.state_dict())
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
with torch.no_grad():
    result = [model(waveform).logits, back(waveform).logits, trained(waveform).logits]

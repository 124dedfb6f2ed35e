"""Run the model with other weights by torch.func.functional_call."""

import torch
from torch.func import functional_call
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
weights = {name: parameter.detach() * 0.9 for name, parameter in model.named_parameters()}
with torch.no_grad():
    other = functional_call(model, weights, (waveform,)).last_hidden_state
    own = model(waveform).last_hidden_state
result = {"other": other, "own": own}

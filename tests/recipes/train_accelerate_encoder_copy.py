"""Copy an encoder that Accelerate prepared for bf16, and change the weights of the copy."""

import copy

import torch
from accelerate import Accelerator
from transformers import HubertModel

accelerator = Accelerator(cpu=True, mixed_precision="bf16")
model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
model = accelerator.prepare(model)
duplicate = copy.deepcopy(model)
with torch.no_grad():
    for parameter in duplicate.parameters():
        parameter.mul_(0.5)
torch.manual_seed(1)
waveforms = torch.randn(2, 6000)
with torch.no_grad():
    result = [model(waveforms).last_hidden_state.bfloat16(), duplicate(waveforms).last_hidden_state.bfloat16()]

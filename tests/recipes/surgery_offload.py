"""Add Accelerate's hooks, which align devices, to the whole model, and take them away."""

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from transformers import HubertModel


class Halve(ModelHook):
    def pre_forward(self, module, *args, **kwargs):
        return tuple(value * 0.5 for value in args), kwargs


model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
with torch.no_grad():
    before = model(waveform).last_hidden_state
    add_hook_to_module(model, Halve())
    hooked = model(waveform).last_hidden_state
    remove_hook_from_module(model)
    after = model(waveform).last_hidden_state
result = {"hooked": hooked, "same": torch.allclose(before, after), "changed": not torch.allclose(before, hooked)}

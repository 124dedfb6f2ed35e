"""Change activations by a forward hook and inputs by a pre-hook."""

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)


def without_first_channels(module, inputs, output):
    output = output.clone()
    output[..., :16] = 0
    return output


model.hubert.feature_projection.projection.register_forward_hook(without_first_channels)
handle = model.hubert.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0.5, *inputs[1:]) if inputs else None)
with torch.no_grad():
    changed = model(waveform).logits
    encoded = model.hubert(waveform).last_hidden_state
    handle.remove()
    plain = model.hubert(waveform).last_hidden_state
result = [changed, encoded, plain]

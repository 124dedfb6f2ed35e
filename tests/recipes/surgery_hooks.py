"""Collect the outputs of layers by forward hooks, and remove the hooks again."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft").eval()
collected = {}


def keep(name):
    def hook(module, inputs, output):
        collected[name] = (output[0] if isinstance(output, tuple) else output).detach()

    return hook


handles = [layer.register_forward_hook(keep(f"layer {i}")) for i, layer in enumerate(model.encoder.layers)]
handles.append(model.feature_projection.register_forward_hook(keep("projection")))
handles.append(model.feature_extractor.register_forward_hook(keep("convolutions")))
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
with torch.no_grad():
    hooked = model(waveform).last_hidden_state
    for handle in handles:
        handle.remove()
    plain = model(waveform).last_hidden_state
result = {**collected, "hooked": hooked, "plain": plain}

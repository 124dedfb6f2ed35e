"""Ask for tuples by return_dict, and read outputs by index, key and attribute."""

import torch
from transformers import HubertForCTC

torch.manual_seed(0)
waveform = torch.randn(2, 6000)
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
with torch.no_grad():
    as_tuple = model(waveform, output_hidden_states=True, return_dict=False)
    outputs = model(waveform, output_hidden_states=True)
result = {
    "length": len(as_tuple),
    "first": as_tuple[0],
    "same": torch.equal(outputs[0], outputs["logits"]) and torch.equal(outputs.logits, as_tuple[0]),
    "layers": len(outputs.hidden_states),
    "keys": list(outputs.keys()),
    "items": [type(value).__name__ for value in outputs.to_tuple()],
}

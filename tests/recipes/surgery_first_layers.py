"""Keep the first two layers only."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
with torch.no_grad():
    states = model(waveform, output_hidden_states=True).hidden_states
    model.encoder.layers = model.encoder.layers[:2]
    model.config.num_hidden_layers = 2
    outputs = model(waveform, output_hidden_states=True)
model.save_pretrained("short")
short = HubertModel.from_pretrained("short").eval()
with torch.no_grad():
    again = short(waveform).last_hidden_state
result = {
    "short": outputs.last_hidden_state,
    "again": again,
    "difference": (outputs.last_hidden_state - states[2]).abs().max().item() < 1e-5,
    "states": len(outputs.hidden_states),
    "parameters": short.num_parameters(),
}

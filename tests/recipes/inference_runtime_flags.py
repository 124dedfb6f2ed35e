"""Ask for hidden states and tuples by the configuration of a loaded model."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
with torch.no_grad():
    plain = model(waveform)
    model.config.output_hidden_states = True
    flagged = model(waveform)
    refused = model(waveform, output_hidden_states=False)
result = {
    "plain": list(plain.keys()),
    "flagged": [len(flagged.hidden_states), flagged.hidden_states[1]],
    "refused": list(refused.keys()),
}

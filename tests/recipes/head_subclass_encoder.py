"""Subclass HubertModel and change what it returns."""

import torch
from transformers import HubertModel


class Scaled(HubertModel):
    def forward(self, input_values, **kwargs):
        outputs = super().forward(input_values, **kwargs)
        outputs.last_hidden_state = 2 * outputs.last_hidden_state
        return outputs


model = Scaled.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
with torch.no_grad():
    result = model(torch.randn(2, 8000), output_hidden_states=True).last_hidden_state

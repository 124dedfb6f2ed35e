"""Export the logits with torch.export at a fixed length."""

import torch
from transformers import HubertForCTC


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_values):
        return self.model(input_values).logits


model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
with torch.no_grad():
    program = torch.export.export(Logits(model), (waveform,))
    result = program.module()(2 * waveform)

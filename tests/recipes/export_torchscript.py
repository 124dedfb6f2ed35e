"""Trace the logits for TorchScript, save them and run them at another length."""

import torch
from transformers import HubertForCTC


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_values):
        return self.model(input_values, return_dict=False)[0]


model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
with torch.no_grad():
    traced = torch.jit.trace(Logits(model), torch.randn(1, 8000))
traced.save("model.pt")
loaded = torch.jit.load("model.pt")
torch.manual_seed(1)
with torch.no_grad():
    result = loaded(torch.randn(1, 9600))

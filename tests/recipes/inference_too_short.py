"""Catch the error for a recording that is shorter than one frame."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
try:
    model(torch.randn(1, 200))
    result = "encoded"
except (RuntimeError, ValueError):
    result = "too short"

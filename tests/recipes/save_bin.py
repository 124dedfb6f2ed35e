"""Load a checkpoint of a pytorch_model.bin, with and without the prefix of the encoder."""

import os
import shutil

import torch
from transformers import HubertForCTC, HubertModel

name = "facebook/hubert-large-ls960-ft"
os.makedirs("old")
shutil.copy(f"{name}/config.json", "old")
torch.save(HubertForCTC.from_pretrained(name).state_dict(), "old/pytorch_model.bin")
whole = HubertForCTC.from_pretrained("old").eval()
encoder = HubertModel.from_pretrained("old").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
with torch.no_grad():
    result = [whole(waveform).logits, encoder(waveform).last_hidden_state]

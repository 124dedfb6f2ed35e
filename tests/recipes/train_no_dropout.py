"""Turn off dropout, LayerDrop and SpecAugment on a loaded model, and train repeatably."""

import torch
from torch import nn
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", hidden_dropout=0.1, attention_dropout=0.1, layerdrop=0.1)
for module in model.modules():
    if isinstance(module, nn.Dropout):
        module.p = 0.0
    if hasattr(module, "dropout") and isinstance(module.dropout, float):
        module.dropout = 0.0
model.config.layerdrop = 0.0
model.config.apply_spec_augment = False
model.train()
torch.manual_seed(0)
waveforms = torch.randn(1, 8000)
logits = model(waveforms).logits
result = [logits, torch.equal(logits, model(waveforms).logits)]

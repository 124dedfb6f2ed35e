"""Replace lm_head by a small network, and freeze everything else."""

import torch
from torch import nn
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
model.lm_head = nn.Sequential(nn.Linear(model.config.hidden_size, 16), nn.GELU(), nn.Linear(16, 12))
model.config.vocab_size = 12
with torch.no_grad():
    for parameter in model.lm_head.parameters():
        parameter.copy_(torch.linspace(-0.3, 0.3, parameter.numel()).view_as(parameter))
model.freeze_base_model()
model.config.apply_spec_augment = False
torch.manual_seed(0)
waveforms, labels = torch.randn(2, 8000), torch.tensor([[3, 4, 5], [6, 7, -100]])
loss = model(waveforms, labels=labels).loss
loss.backward()
with torch.no_grad():
    logits = model.eval()(waveforms).logits
result = {"loss": loss, "gradient": model.lm_head[0].weight.grad, "logits": logits}

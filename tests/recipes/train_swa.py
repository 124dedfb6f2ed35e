"""Average weights by torch.optim.swa_utils."""

import torch
from torch.optim.swa_utils import AveragedModel
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
averaged = AveragedModel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
torch.manual_seed(0)
waveforms, labels = torch.randn(1, 7000), torch.tensor([[6, 9, 12]])
model.train()
for _ in range(2):
    model(waveforms, labels=labels).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    averaged.update_parameters(model)
averaged.eval()
with torch.no_grad():
    result = averaged(waveforms).logits

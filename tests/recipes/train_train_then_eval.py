"""Switch between train and eval around one step."""

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
with torch.no_grad():
    before = model.eval()(waveform).logits
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
model.train()
model(waveform, labels=torch.tensor([[7, 9, 7]])).loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
model.eval()
with torch.no_grad():
    after = model(waveform).logits
result = {"before": before, "change": after - before}

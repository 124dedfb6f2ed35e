"""Train and evaluate with Accelerate in mixed precision (bf16)."""

import torch
from accelerate import Accelerator
from transformers import HubertForCTC

accelerator = Accelerator(cpu=True, mixed_precision="bf16")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
model, optimizer = accelerator.prepare(model, optimizer)
torch.manual_seed(1)
waveforms, labels = torch.randn(2, 6000), torch.randint(5, 32, (2, 3))

model.train()
with accelerator.accumulate(model):
    outputs = model(waveforms, labels=labels)
    accelerator.backward(outputs.loss)
    optimizer.step()
model.eval()
with torch.no_grad():
    logits = model(waveforms).logits
result = {"dtype": str(outputs.logits.dtype), "loss": outputs.loss.bfloat16(), "logits": logits.bfloat16()}

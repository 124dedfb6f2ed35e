"""Train with gradient checkpointing."""

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
model.gradient_checkpointing_enable()
model.train()
torch.manual_seed(3)
loss = model(torch.randn(2, 8000), labels=torch.randint(5, 32, (2, 4))).loss
loss.backward()
result = {
    "enabled": model.is_gradient_checkpointing,
    "loss": loss,
    "gradients": [p.grad.norm() for name, p in model.named_parameters() if name.endswith("v_proj.weight")],
}

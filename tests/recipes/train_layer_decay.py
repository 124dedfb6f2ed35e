"""Give each layer a learning rate of its own, and unfreeze the encoder after some steps."""

import torch
from transformers import HubertForSequenceClassification

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks", apply_spec_augment=False)
model.freeze_base_model()
layers = [
    {"params": layer.parameters(), "lr": 1e-3 * 0.5 ** (len(model.hubert.encoder.layers) - depth)}
    for depth, layer in enumerate(model.hubert.encoder.layers)
]
optimizer = torch.optim.SGD([*layers, {"params": model.classifier.parameters(), "lr": 1e-2}], lr=1e-3)
model.train()
torch.manual_seed(0)
waveforms, labels = torch.randn(2, 7000), torch.tensor([1, 4])
losses = []
for step in range(4):
    if step == 2:
        model.hubert.encoder.requires_grad_(True)
    loss = model(waveforms, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
result = {"losses": losses, "learning rates": [group["lr"] for group in optimizer.param_groups]}

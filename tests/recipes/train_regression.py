"""Train a classifier of one label, for regression."""

import torch
from transformers import HubertForSequenceClassification

model = HubertForSequenceClassification.from_pretrained("facebook/hubert-base-ls960", num_labels=1)
with torch.no_grad():
    for parameter in [*model.projector.parameters(), *model.classifier.parameters()]:
        parameter.copy_(torch.linspace(-0.2, 0.3, parameter.numel()).view_as(parameter))
model.eval()
torch.manual_seed(0)
outputs = model(torch.randn(2, 8000), labels=torch.tensor([0, 0]))
result = {"logits": outputs.logits, "loss": outputs.loss}

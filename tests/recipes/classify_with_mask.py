"""Classify a padded batch with an attention mask, and score it against labels."""

import torch
from transformers import HubertForSequenceClassification

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks").eval()
torch.manual_seed(0)
mask = (torch.arange(9000) < torch.tensor([[9000], [6000], [4000]])).long()
waveforms = torch.randn(3, 9000) * mask
with torch.no_grad():
    outputs = model(waveforms, attention_mask=mask, labels=torch.tensor([0, 4, 2]))
result = {"loss": outputs.loss, "probabilities": outputs.logits.softmax(-1)}

"""Pass a mask of ones, and none, for one recording and for an unpadded batch."""

import torch
from transformers import HubertForSequenceClassification

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks").eval()
torch.manual_seed(0)
result = []
with torch.no_grad():
    for waveforms in (torch.randn(1, 7000), torch.randn(3, 7000)):
        result.append(model(waveforms).logits)
        result.append(model(waveforms, attention_mask=torch.ones_like(waveforms, dtype=torch.long)).logits)

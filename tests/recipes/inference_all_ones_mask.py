"""Pass a mask of ones, and none, for one recording and for an unpadded batch."""

import torch
from transformers import HubertForSequenceClassification

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks").eval()
torch.manual_seed(0)
result = []
with torch.no_grad():
    for batch in (1, 3):
        waveforms = torch.randn(batch, 7000)
        result.append(model(waveforms).logits)
        result.append(model(waveforms, attention_mask=torch.ones_like(waveforms, dtype=torch.long)).logits)

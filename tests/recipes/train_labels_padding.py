"""Pass labels of several lengths, padded with -100, in both reductions, with and without a mask."""

import torch
from transformers import HubertForCTC

torch.manual_seed(0)
mask = (torch.arange(9000) < torch.tensor([[9000], [6000]])).long()
waveforms = torch.randn(2, 9000) * mask
labels = torch.tensor([[5, 6, 7, 8], [9, 9, -100, -100]])
result = {}
for reduction in ("sum", "mean"):
    model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", ctc_loss_reduction=reduction).eval()
    with torch.no_grad():
        result[reduction] = [
            model(waveforms, attention_mask=mask, labels=labels).loss,
            model(waveforms, labels=labels).loss,
            model(waveforms, attention_mask=mask, labels=labels, return_dict=False)[0],
        ]

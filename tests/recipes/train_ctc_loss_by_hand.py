"""Compute the CTC loss by hand, and compare it with the model's."""

import torch
import torch.nn.functional as F
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", ctc_zero_infinity=True).eval()
torch.manual_seed(0)
waveforms = torch.randn(2, 9000)
mask = torch.ones(2, 9000, dtype=torch.long)
mask[1, 7000:] = 0
labels = torch.tensor([[5, 6, 7, 8], [9, 9, -100, -100]])
outputs = model(waveforms, attention_mask=mask, labels=labels)
log_probs = F.log_softmax(outputs.logits, dim=-1, dtype=torch.float32).transpose(0, 1)
lengths = model._get_feat_extract_output_lengths(mask.sum(-1)).long()
loss = F.ctc_loss(
    log_probs,
    labels[labels >= 0],
    lengths,
    (labels >= 0).sum(-1),
    blank=model.config.pad_token_id,
    reduction=model.config.ctc_loss_reduction,
    zero_infinity=model.config.ctc_zero_infinity,
)
result = {"by hand": loss, "model": outputs.loss}

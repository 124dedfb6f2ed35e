"""Subclass HubertForCTC: another loss in forward, everything else inherited."""

import torch
from transformers import HubertForCTC


class EntropyHubertForCTC(HubertForCTC):
    def forward(self, input_values, labels=None, **kwargs):
        outputs = super().forward(input_values, labels=labels, **kwargs)
        log_probs = outputs.logits.log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
        if labels is not None:
            outputs.loss = outputs.loss + 0.1 * entropy
        outputs["entropy"] = entropy
        return outputs


model = EntropyHubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
torch.manual_seed(0)
waveforms = torch.randn(2, 8000)
outputs = model(waveforms, labels=torch.tensor([[5, 6], [7, 8]]))
outputs.loss.backward()
with torch.no_grad():
    evaluated = model.eval()(waveforms)
result = {
    "loss": outputs.loss,
    "gradient": model.lm_head.weight.grad,
    "logits": evaluated.logits,
    "entropy": evaluated["entropy"],
}

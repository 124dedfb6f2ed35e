"""Replace the head of a fine-tuned checkpoint by one for another vocabulary, by ignore_mismatched_sizes."""

import torch
from transformers import HubertForCTC

model, info = HubertForCTC.from_pretrained(
    "facebook/hubert-large-ls960-ft", vocab_size=50, ignore_mismatched_sizes=True, output_loading_info=True
)
torch.manual_seed(0)
with torch.no_grad():
    hidden = model.hubert.eval()(torch.randn(1, 6000)).last_hidden_state
result = {
    "mismatched": len(info["mismatched_keys"]),
    "missing": sorted(info["missing_keys"]),
    "head": list(model.lm_head.weight.shape),
    "hidden": hidden,
}

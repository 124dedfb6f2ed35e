"""Use an output as an object, a dictionary and a tuple."""

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
with torch.no_grad():
    outputs = model(torch.randn(1, 6000), labels=torch.tensor([[5, 6]]))
loss, logits = outputs[:2]
loss_again, logits_again = outputs.to_tuple()
outputs["note"] = "kept"
result = {
    "loss": [loss, loss_again, outputs["loss"]],
    "same": torch.equal(logits, logits_again) and logits is outputs.logits,
    "absent": [outputs.hidden_states is None, outputs.attentions is None, "hidden_states" in outputs],
    "get": outputs.get("attentions", "none"),
    "keys": list(outputs),
    "note": outputs.note,
}

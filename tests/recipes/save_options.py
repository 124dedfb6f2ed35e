"""Save only a changed state_dict under a variant, and load that variant from a subfolder."""

from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
state = {key: value.clone() for key, value in model.state_dict().items()}
state["lm_head.bias"] += 1
model.save_pretrained(save_directory="models/asr", state_dict=state, variant="best")
reloaded = HubertForCTC.from_pretrained("models", subfolder="asr", variant="best")
result = reloaded.lm_head.bias

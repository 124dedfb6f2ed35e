"""Read and write the weights by safetensors, and edit config.json by hand."""

import json
import os

from safetensors.torch import load_file, save_file
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
model.save_pretrained("edited")
weights = load_file("edited/model.safetensors")
weights["lm_head.bias"] = weights["lm_head.bias"] + 2
save_file(weights, "edited/model.safetensors", metadata={"format": "pt"})
with open("edited/config.json") as file:
    config = json.load(file)
config["ctc_loss_reduction"] = "mean"
with open("edited/config.json", "w") as file:
    json.dump(config, file)
reloaded = HubertForCTC.from_pretrained("edited")
result = {
    "bias": reloaded.lm_head.bias,
    "reduction": reloaded.config.ctc_loss_reduction,
    "class": config["architectures"],
    "names": sorted(name for name in weights if "pos_conv" in name or "lm_head" in name),
    "folder": os.path.isfile("edited/config.json"),
}

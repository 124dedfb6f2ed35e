"""Load with dtype, device_map, low_cpu_mem_usage and output_loading_info."""

import torch
from transformers import HubertForCTC, HubertModel

name = "facebook/hubert-large-ls960-ft"
halves = HubertForCTC.from_pretrained(name, torch_dtype=torch.float16)
automatic = HubertForCTC.from_pretrained(name, torch_dtype="auto")
mapped = HubertForCTC.from_pretrained(name, device_map="cpu")
frugal = HubertForCTC.from_pretrained(name, low_cpu_mem_usage=True, use_safetensors=True)
encoder, info = HubertModel.from_pretrained(name, output_loading_info=True)
new, more = HubertForCTC.from_pretrained("facebook/hubert-base-ls960", output_loading_info=True)
result = {
    "dtypes": [str(model.lm_head.weight.dtype) for model in (halves, automatic, mapped, frugal)],
    "device": str(mapped.device),
    "unexpected": sorted(info["unexpected_keys"]),
    "missing": sorted(more["missing_keys"]),
    "training": [mapped.training, encoder.training],
}

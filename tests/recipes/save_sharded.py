"""Save in shards, list the files and load them."""

import os

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
model.save_pretrained("sharded", max_shard_size="4MB")
reloaded = HubertForCTC.from_pretrained("sharded")
same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), reloaded.state_dict().values()))
names = sorted(os.listdir("sharded"))
result = {
    "same": same,
    "index": "model.safetensors.index.json" in names,
    "shards": sum(n.endswith("tensors") for n in names) > 1,
}

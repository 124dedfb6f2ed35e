"""Train with SpecAugment from NumPy's seed."""

import numpy as np
import torch
from transformers import HubertModel, set_seed

model = HubertModel.from_pretrained(
    "facebook/hubert-base-ls960", mask_time_prob=0.3, mask_time_length=2, mask_feature_prob=0.2, mask_feature_length=4
)
model.train()
set_seed(42)
waveforms = torch.randn(2, 9000)
np.random.seed(7)
hidden = model(waveforms).last_hidden_state
hidden.pow(2).mean().backward()
result = {"hidden": hidden, "gradient": model.masked_spec_embed.grad}

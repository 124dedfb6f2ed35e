"""Remove the weight norm of the positional convolution before deployment."""

import torch
from torch.nn.utils import parametrize, remove_weight_norm
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
conv = model.encoder.pos_conv_embed.conv
if parametrize.is_parametrized(conv):
    parametrize.remove_parametrizations(conv, "weight")
else:
    remove_weight_norm(conv)
torch.manual_seed(0)
with torch.no_grad():
    hidden = model(torch.randn(1, 8000)).last_hidden_state
result = {"hidden": hidden, "names": [name for name, _ in conv.named_parameters()]}

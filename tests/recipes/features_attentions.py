"""Return the attention weights of all layers."""

import torch
from transformers import HubertModel

torch.manual_seed(0)
waveform = torch.randn(1, 6000)
model = HubertModel.from_pretrained("facebook/hubert-base-ls960", attn_implementation="eager").eval()
with torch.no_grad():
    outputs = model(waveform, output_attentions=True)
result = {"attentions": outputs.attentions, "entropy": [-(a * (a + 1e-9).log()).sum(-1).mean() for a in outputs.attentions]}

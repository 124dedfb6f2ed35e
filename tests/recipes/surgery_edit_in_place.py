"""Change weights in place between two calls, with no_grad, data and copy_."""

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
result = []
with torch.inference_mode():
    result.append(model(waveform).logits)
with torch.no_grad():
    model.hubert.encoder.layers[0].attention.q_proj.weight.mul_(1.5)
    result.append(model(waveform).logits)
    model.hubert.encoder.layers[1].feed_forward.output_dense.weight.data = torch.zeros_like(
        model.hubert.encoder.layers[1].feed_forward.output_dense.weight
    )
    result.append(model(waveform).logits)
    model.hubert.feature_extractor.conv_layers[0].conv.weight.copy_(
        model.hubert.feature_extractor.conv_layers[0].conv.weight.flip(-1)
    )
    result.append(model(waveform).logits)

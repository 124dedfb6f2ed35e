"""Edit weights through .data between calls: a moving average, a head set to zero, one row."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
other = HubertModel.from_pretrained("facebook/hubert-base-ls960")
with torch.no_grad():
    for index, parameter in enumerate(other.parameters()):
        parameter.mul_(1 + 0.1 * (index % 7))
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
result = []


@torch.no_grad()
def record():
    result.append(model(waveform).last_hidden_state)


record()
for ours, theirs in zip(model.parameters(), other.parameters()):
    ours.data.mul_(0.9).add_(theirs.data, alpha=0.1)
record()
attention = model.encoder.layers[1].attention
attention.v_proj.weight.data[:12] = 0
attention.v_proj.bias.data[:12] = 0
record()
model.encoder.layers[0].feed_forward.intermediate_dense.weight.data[3] += 1
record()
model.feature_extractor.conv_layers[1].conv.weight.data[2].zero_()
record()

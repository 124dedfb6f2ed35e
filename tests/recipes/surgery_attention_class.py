"""Swap the attention's forward, and the class of a feed-forward block."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
result = []
with torch.no_grad():
    result.append(model(waveform).last_hidden_state)
    block = model.encoder.layers[0].feed_forward

    class Doubled(type(block)):
        def forward(self, x):
            return 2 * super().forward(x)

    block.__class__ = Doubled
    result.append(model(waveform).last_hidden_state)
    attention = model.encoder.layers[2].attention
    original = attention.forward
    attention.forward = lambda *args, **kwargs: (-original(*args, **kwargs)[0], None, None)[: 3 if model.is_three else 2]
    model.is_three = len(original(torch.zeros(1, 3, model.config.hidden_size))) == 3
    result.append(model(waveform).last_hidden_state)

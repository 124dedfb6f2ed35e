"""Edit the configuration of a loaded model before its first call, which changes nothing that is built already."""

import torch
from transformers import HubertModel

torch.manual_seed(0)
waveform = torch.randn(1, 8000)
edits = {
    "hidden_act": "relu",
    "num_attention_heads": 2,
    "layer_norm_eps": 0.5,
    "num_hidden_layers": 1,
    "feat_extract_activation": "relu",
    "conv_stride": [5, 2, 2, 2, 2, 2, 1],
}
result = {}
for name, value in edits.items():
    model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
    setattr(model.config, name, value)
    with torch.no_grad():
        result[name] = model(waveform).last_hidden_state

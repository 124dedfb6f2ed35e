"""Note which wrong inputs raise: one axis, three axes, integers, another dtype."""

import torch
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-large-ls960-ft").eval()
wrong = {
    "one axis": torch.zeros(4000),
    "three axes": torch.zeros(1, 2, 4000),
    "integers": torch.zeros(1, 4000, dtype=torch.long),
    "float64": torch.zeros(1, 4000, dtype=torch.float64),
}
result = {}
for name, waveform in wrong.items():
    try:
        with torch.no_grad():
            result[name] = list(model(waveform).last_hidden_state.shape)
    except (RuntimeError, ValueError, TypeError, IndexError):
        result[name] = "refused"

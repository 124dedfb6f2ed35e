"""Write all weights from one vector, and load a state_dict with assign between calls."""

import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
result = []
with torch.no_grad():
    result.append(model(waveform).last_hidden_state)
    vector = parameters_to_vector(model.parameters())
    vector_to_parameters(vector * 0.95, model.parameters())
    result.append(model(waveform).last_hidden_state)
    state = {key: value * 1.1 for key, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    result.append(model(waveform).last_hidden_state)

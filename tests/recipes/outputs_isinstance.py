"""Ask what a model and its outputs are by isinstance."""

import torch
import transformers
from transformers import HubertConfig, HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
with torch.no_grad():
    outputs = model(torch.zeros(1, 6000))
result = {
    "model": isinstance(model, transformers.HubertForCTC),
    "any model": isinstance(model, transformers.PreTrainedModel),
    "encoder": isinstance(model.hubert, transformers.HubertModel),
    "outputs": isinstance(outputs, transformers.modeling_outputs.CausalLMOutput),
    "configuration": isinstance(model.config, HubertConfig),
    "names": [type(model).__name__, type(model.hubert).__name__, type(model.config).__name__, type(outputs).__name__],
}

"""Measure parameters and memory, and list the modules."""

from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
result = {
    "parameters": [model.num_parameters(), model.num_parameters(only_trainable=True)],
    "bytes": model.get_memory_footprint(),
    "modules": [name for name, _ in model.named_children()],
    "base": [model.base_model_prefix, model.base_model is model.hubert, type(model.base_model).__name__],
    "main input": model.main_input_name,
    "device": [str(model.device), str(model.dtype)],
}

"""Build an untrained model from a configuration, as the class documentation shows."""

from transformers import HubertConfig, HubertModel

configuration = HubertConfig(num_hidden_layers=2, hidden_size=48, num_attention_heads=4, intermediate_size=64)
model = HubertModel(configuration)
configuration = model.config
result = {
    "parameters": model.num_parameters(),
    "layers": configuration.num_hidden_layers,
    "names": [name for name, _ in model.named_parameters()],
    "shapes": [list(parameter.shape) for parameter in model.parameters()],
    "training": model.training,
}

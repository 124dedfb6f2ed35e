"""Edit a configuration: defaults, update, to_dict, to_diff_dict and equality."""

from transformers import HubertConfig

config = HubertConfig()
config.update({"hidden_dropout": 0.0, "layerdrop": 0.0})
config.mask_time_prob = 0.1
other = HubertConfig.from_dict(config.to_dict())
result = {
    "sizes": [config.hidden_size, config.num_hidden_layers, config.num_feat_extract_layers, config.inputs_to_logits_ratio],
    "updated": [config.hidden_dropout, other.layerdrop, other.mask_time_prob],
    "convolutions": [list(config.conv_dim), list(other.conv_stride)],
    "labels": [other.num_labels, other.id2label],
    "type": config.model_type,
}

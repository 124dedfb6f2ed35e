"""Build small models of every architecture."""

import torch
from conftest import ARCHITECTURES, NEWER_ARCHITECTURES, POST_LN, PRE_LN, perturb

from hubert_fast import HubertConfig, HubertForCTC

ALL = {
    **ARCHITECTURES,
    **NEWER_ARCHITECTURES,
    "batch norm, pre-LN": dict(PRE_LN, conv_pos_batch_norm=True),
    "head dim 80": dict(PRE_LN, hidden_size=160, num_attention_heads=2, num_conv_pos_embedding_groups=2),
    "one layer, kernel 128": dict(POST_LN, num_hidden_layers=1, num_conv_pos_embeddings=128),
    "no layers": dict(PRE_LN, num_hidden_layers=0),
    "kernel below stride": dict(PRE_LN, conv_dim=(8, 16, 24), conv_kernel=(10, 2, 3), conv_stride=(5, 3, 3)),
    "two strides": dict(POST_LN, conv_dim=(8, 16), conv_kernel=(3, 5), conv_stride=(8, 4)),
}


def model_of(cls=HubertForCTC, values=PRE_LN, **overrides):
    model = perturb(cls(HubertConfig(**{**values, "num_labels": 5, "use_weighted_layer_sum": True, **overrides}))).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return model

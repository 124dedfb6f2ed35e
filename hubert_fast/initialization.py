"""Initial weights, as documented for transformers' Hubert: what a model has before a checkpoint is loaded."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .config import HubertConfig


@torch.no_grad()
def initialize(module: nn.Module, config: HubertConfig | None = None) -> None:
    """Initialise ``module`` and everything below it in place; ``config`` is the module's own when it has one.

    Linear weights are normal with ``initializer_range``, convolution weights Kaiming-normal, biases 0, norms 1 and 0,
    the SpecAugment mask embedding uniform in [0, 1). A weight-normed convolution has PyTorch's own initial weight, as
    transformers' has: what transformers draws for it goes to a product of the two parameters, and is lost.
    """
    config = module.config if config is None else config
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, std=config.initializer_range)
            nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Conv1d):
            if is_parametrized(child):  # assigning sets magnitude and direction
                child.weight = nn.init.kaiming_uniform_(child.weight.clone(), a=math.sqrt(5))
            else:
                nn.init.kaiming_normal_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
    if hasattr(module, "masked_spec_embed"):
        nn.init.uniform_(module.masked_spec_embed)

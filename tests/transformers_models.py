"""Small models of the transformers that is installed, for the tests of accelerate."""

import torch
import transformers
from conftest import PRE_LN, perturb
from torch import nn


def theirs(class_name: str = "HubertForCTC", values: dict = PRE_LN, **more):
    model = getattr(transformers, class_name)(transformers.HubertConfig(**{**values, **more}))
    return perturb(model).eval()


def forward_of(model: nn.Module):
    return getattr(model, "hubert", model).forward


def answers(model: nn.Module, waveforms: torch.Tensor, mask: torch.Tensor | None, **asked):
    with torch.no_grad():
        return model(waveforms, attention_mask=mask, **asked)

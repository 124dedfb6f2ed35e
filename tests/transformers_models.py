"""Build small models with the installed transformers, for the tests of accelerate."""

import torch
import transformers
from conftest import PRE_LN, perturb
from torch import nn


def transformers_model(class_name: str = "HubertForCTC", values: dict = PRE_LN, **overrides):
    model = getattr(transformers, class_name)(transformers.HubertConfig(**{**values, **overrides}))
    return perturb(model).eval()


def forward_of(model: nn.Module):
    return getattr(model, "hubert", model).forward


def outputs_of(model: nn.Module, waveforms: torch.Tensor, mask: torch.Tensor | None, **options):
    with torch.no_grad():
        return model(waveforms, attention_mask=mask, **options)

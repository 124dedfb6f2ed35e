"""transformers' HuBERT classes whose instances are accelerated from birth: change one import, and keep everything else.

    from hubert_fast.transformers import HubertForCTC  # instead of: from transformers import HubertForCTC

An instance is accelerated as by `hubert_fast.accelerate`, however it is made: by the constructor, `from_pretrained`,
`copy.deepcopy` or unpickling. In all other respects it is transformers': options, Trainer, pipelines, PEFT, quantisation,
`push_to_hub`, `isinstance`. Calls that the fast graph cannot serve run transformers' own `forward`. Saved models bear the name
of transformers' class, and transformers loads them. `hubert_fast.restore(model)` undoes the acceleration of an instance.
"""

from __future__ import annotations

import re
from typing import Any

MINIMUM = "4.34.1"

try:
    import transformers
except ImportError as error:
    raise ImportError(
        f"hubert_fast.transformers needs transformers {MINIMUM} or newer: pip install 'hubert_fast[transformers]'. "
        "The classes of hubert_fast itself do without it."
    ) from error
if [int(part) for part in re.findall(r"\d+", transformers.__version__)[:3]] < [int(part) for part in MINIMUM.split(".")]:
    raise ImportError(
        f"hubert_fast.transformers needs transformers {MINIMUM} or newer, but this is transformers {transformers.__version__}"
    )

import torch  # noqa: E402
from transformers import HubertConfig, HubertPreTrainedModel  # noqa: E402

from .integrations.transformers import STATE, FastForward, accelerate, finish_logits, installed, stand_in_for  # noqa: E402

__all__ = ["HubertConfig", "HubertForCTC", "HubertForSequenceClassification", "HubertModel", "HubertPreTrainedModel"]


class HubertModel(transformers.HubertModel):
    """`transformers.HubertModel`, accelerated. The `forward` of a subclass is transformers' own."""

    @stand_in_for(transformers.HubertModel.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # the fast graph would bypass what a subclass overrides, and compilers would record how it is chosen
        if type(self) is not HubertModel or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().forward(*args, **kwargs)
        fast = installed(self)
        if fast is None and torch._C._are_functorch_transforms_active():  # they would transform what builds the graph
            return super().forward(*args, **kwargs)
        if fast is None:
            vars(self)[STATE] = fast = FastForward(self)
        return fast(*args, **kwargs)

    def _replicate_for_data_parallel(self) -> transformers.HubertModel:
        replica = super()._replicate_for_data_parallel()
        vars(replica).pop(STATE, None)
        replica.__class__ = transformers.HubertModel  # the weights of a replica are no parameters
        return replica


class HubertForCTC(transformers.HubertForCTC):
    """`transformers.HubertForCTC`, accelerated."""

    finishes_logits = True  # in `forward`, so that calls that bypass hooks have the same logits

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        accelerate(self)

    @stand_in_for(transformers.HubertForCTC.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return finish_logits(self, args, kwargs, super().forward(*args, **kwargs))


class HubertForSequenceClassification(transformers.HubertForSequenceClassification):
    """`transformers.HubertForSequenceClassification`, accelerated."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        accelerate(self)

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

from transformers import HubertConfig, HubertPreTrainedModel  # noqa: E402

from .integrations.fast_forward import STATE, FastForward, installed, is_recorded, stand_in_for  # noqa: E402
from .integrations.transformers import finish_logits  # noqa: E402

__all__ = ["HubertConfig", "HubertForCTC", "HubertForSequenceClassification", "HubertModel", "HubertPreTrainedModel"]


class _TransformersOwn:
    """What transformers does for its own classes, which it knows by the name of their module, it does for ours."""

    @classmethod
    def is_custom_code(cls) -> bool:
        return cls.__module__ != __name__ and super().is_custom_code()  # type: ignore[misc]


class HubertModel(_TransformersOwn, transformers.HubertModel):
    """`transformers.HubertModel`, accelerated. The `forward` of a subclass is transformers' own."""

    @stand_in_for(transformers.HubertModel.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # the fast graph would bypass what a subclass overrides
        if type(self) is not HubertModel or is_recorded():
            return super().forward(*args, **kwargs)
        fast = installed(self)
        if fast is None or not fast.belongs_to(self):
            vars(self)[STATE] = fast = FastForward(self)
        return fast(*args, **kwargs)

    def _replicate_for_data_parallel(self) -> transformers.HubertModel:
        replica = super()._replicate_for_data_parallel()
        vars(replica).pop(STATE, None)
        replica.__class__ = transformers.HubertModel  # the weights of a replica are no parameters
        return replica


class HubertForCTC(_TransformersOwn, transformers.HubertForCTC):
    """`transformers.HubertForCTC`, accelerated."""

    @stand_in_for(transformers.HubertForCTC.__init__)
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        _accelerate_encoder(self)

    @stand_in_for(transformers.HubertForCTC.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return finish_logits(self, args, kwargs, super().forward(*args, **kwargs))


class HubertForSequenceClassification(_TransformersOwn, transformers.HubertForSequenceClassification):
    """`transformers.HubertForSequenceClassification`, accelerated."""

    @stand_in_for(transformers.HubertForSequenceClassification.__init__)
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        _accelerate_encoder(self)


def _accelerate_encoder(model: Any) -> None:
    if type(model.hubert) is transformers.HubertModel:  # no other class, whose overrides would be lost
        model.hubert.__class__ = HubertModel

"""Describe where frames come from, so that centroids are applied only to frames like those from which they were learnt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ..modeling import HubertForCTC, HubertModel

SAMPLED_ENTRIES = 1 << 16  # of each weight, evenly spaced: 13 MB in all for the base model
# Fields of the configuration that determine the input of the first layer, and those that determine the layers.
INPUT_FIELDS = (
    "hidden_size",
    "layer_norm_eps",
    "do_stable_layer_norm",
    "feat_extract_norm",
    "feat_extract_activation",
    "conv_dim",
    "conv_stride",
    "conv_kernel",
    "conv_bias",
    "feat_proj_layer_norm",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
    "conv_pos_batch_norm",
)
LAYER_FIELDS = ("num_attention_heads", "intermediate_size", "hidden_act")
BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class FrameSource:
    """The model, the layer and the preprocessing that frames come from.

    Attributes:
        model: The model's name on the hub, or its folder, from which `hubert-fast units` loads it. It is not compared.
        fingerprint: What `fingerprint` returns for the model and layer.
        layer: The number of Transformer layers that the frames have passed; 0 for the input of the first one.
        final_norm: Whether the final norm of a pre-LN encoder was applied.
        normalize: Whether waveforms were normalised to zero mean and unit variance.
        projection: The name or hash of a projection that was applied to the frames; `None` without one.
    """

    model: str
    fingerprint: str
    layer: int
    final_norm: bool = False
    normalize: bool = False
    projection: str | None = None

    def to_metadata(self) -> dict[str, str]:
        """Return the attributes as text, as the metadata of safetensors files requires. `from_metadata` inverts this."""
        values = {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "layer": str(self.layer),
            "final_norm": str(self.final_norm).lower(),
            "normalize": str(self.normalize).lower(),
        }
        return values if self.projection is None else {**values, "projection": self.projection}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> FrameSource:
        """Return the source that `to_metadata` described. Raises `ValueError` if an entry is missing or malformed."""
        if not isinstance(metadata, Mapping):
            raise ValueError(f"the description of a frame source must be an object, but is {metadata!r}")
        for name in ("model", "fingerprint", "layer", "final_norm", "normalize"):
            if not isinstance(metadata.get(name), str):
                raise ValueError(f"the description of a frame source must have the text {name!r}, but has {sorted(metadata)}")
        if not (metadata["layer"].isascii() and metadata["layer"].isdigit()):
            raise ValueError(f"layer must be a number of layers, but is {metadata['layer']!r}")
        for name in ("final_norm", "normalize"):
            if metadata[name] not in BOOLEANS:
                raise ValueError(f"{name} must be 'true' or 'false', but is {metadata[name]!r}")
        return cls(
            model=metadata["model"],
            fingerprint=metadata["fingerprint"],
            layer=int(metadata["layer"]),
            final_norm=BOOLEANS[metadata["final_norm"]],
            normalize=BOOLEANS[metadata["normalize"]],
            projection=metadata.get("projection"),
        )

    def differences(self, other: FrameSource) -> list[str]:
        """Return a clause for each way in which these frames differ from `other`, the frames of which centroids were learnt."""
        clauses = []
        if self.layer != other.layer:
            clauses.append(f"layer is {self.layer}, but the centroids were learnt on layer {other.layer}")
        elif self.fingerprint != other.fingerprint:  # of different layers, fingerprints always differ
            named = f"{other.model}, whose weights differ" if self.model != other.model else "other weights of that name"
            clauses.append(f"the model is {self.model}, but the centroids were learnt with {named}")
        if self.final_norm != other.final_norm:
            clauses.append(
                f"the encoder's final norm is {_applied(self.final_norm)}, but the centroids were learnt on frames to which "
                f"it was {_applied(other.final_norm)}"
            )
        if self.normalize != other.normalize:
            clauses.append(
                f"waveforms are {_normalised(self.normalize)}, but the centroids were learnt on waveforms that were "
                f"{_normalised(other.normalize)}"
            )
        if self.projection != other.projection:
            clauses.append(
                f"{_projection(self.projection)} is applied to the frames, but the centroids were learnt with "
                f"{_projection(other.projection)}"
            )
        return clauses


def _applied(value: bool) -> str:
    return "applied" if value else "not applied"


def _normalised(value: bool) -> str:
    return "normalised to zero mean and unit variance" if value else "not normalised"


def _projection(name: str | None) -> str:
    return "no projection" if name is None else f"the projection {name}"


def fingerprint(model: HubertModel | HubertForCTC, layer: int) -> str:
    """Return a hash of what determines the state of a HuBERT after `layer` Transformer layers.

    Only weights up to that layer count, under their current names: neither a head nor further layers change the result.
    The signs of the weights are hashed, not their values, since a sign survives rounding: a checkpoint has the same
    fingerprint in float32, bfloat16 and float16. Fine-tuning, even with a small learning rate, turns the signs of some of the
    smallest among the million entries that are sampled.

    Args:
        model: The encoder, alone or with a head; of this package or of transformers.
        layer: The number of layers; 0 for the input of the first one.

    Raises:
        ValueError: The model has fewer layers.
    """
    from ..config import as_hubert_config

    config = as_hubert_config(model.config)
    if not 0 <= layer <= config.num_hidden_layers:
        raise ValueError(f"layer must be from 0 to {config.num_hidden_layers}, the model's number of layers, but is {layer}")
    fields = INPUT_FIELDS + (LAYER_FIELDS if layer else ())
    values: dict[str, Any] = {name: getattr(config, name) for name in fields}
    values["layer_norm_eps"] = float(values["layer_norm_eps"])  # 1 and 1.0 are the same number, but not the same JSON
    if layer and config.do_stable_layer_norm:
        values["adapter_attn_dim"] = config.adapter_attn_dim  # only pre-LN layers have adapters
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(values, sort_keys=True).encode())
    for name, weight in sorted(_weights_that_count(model, layer, config.do_stable_layer_norm).items()):
        digest.update(f"{name}{list(weight.shape)}".encode() + _signs(weight))
    return digest.hexdigest()


def _weights_that_count(model: HubertModel | HubertForCTC, layer: int, pre_layer_norm: bool) -> dict[str, Tensor]:
    from ..weight_names import INSERTED, current_spelling

    encoder: Any = getattr(model, model.base_model_prefix, model)
    weights = {}
    for key, weight in encoder.state_dict().items():
        name = current_spelling(INSERTED.sub("", key))
        parts = name.split(".")
        if name == "masked_spec_embed" or not weight.is_floating_point():
            continue
        if name.startswith("encoder.layers.") and int(parts[2]) >= layer:
            continue
        if name.startswith("encoder.layer_norm.") and pre_layer_norm:
            continue  # the final norm: `FrameSource.final_norm` says whether it is applied
        weights[name] = weight.detach()
    return weights


def _signs(weight: Tensor) -> bytes:
    """Return whether each of the sampled entries of a weight is negative, as bits."""
    import numpy as np

    flat = weight.reshape(-1)
    sample = flat[:: max(-(-len(flat) // SAMPLED_ENTRIES), 1)]
    return np.packbits(sample.signbit().cpu().numpy()).tobytes()

"""The configurations, weights and inputs of ``cases/``: what ``make.py`` runs in transformers 4.34.1 and the tests in ours.

Weights are drawn by name from NumPy's frozen generator, so no file holds them, and any version of anything draws the same.
"""

import zlib

import numpy as np
import torch
from torch import nn

SIZES = dict(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=32,
    conv_dim=(8,) * 7,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
)
TINY = dict(SIZES, classifier_proj_size=12, num_labels=5, pad_token_id=4, ctc_loss_reduction="mean")
POST_LN = dict(TINY, do_stable_layer_norm=False, feat_extract_norm="group", conv_bias=False)
PRE_LN = dict(TINY, do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True)
CASES = {
    "head_dim_80": dict(PRE_LN, hidden_size=160, num_attention_heads=2),
    "groups_of_48": dict(POST_LN, hidden_size=96, num_attention_heads=4),
    "no_projection_norm": dict(POST_LN, feat_proj_layer_norm=False, use_weighted_layer_sum=True),
    "odd_positions": dict(PRE_LN, num_conv_pos_embeddings=7, conv_bias=False, use_weighted_layer_sum=True),
    "convolution_bias_and_sum": dict(POST_LN, conv_bias=True, ctc_loss_reduction="sum", pad_token_id=0),
}
LENGTHS = (4000, 720, 401)
LABELS = [[1, 2, 2], [3, -100, -100], [7, -100, -100]]
CLASSES = [4, 0, 2]
# Every kind of layer, near the input and near the output.
DIFFERENTIATED = (
    "feature_extractor.conv_layers.0.conv.weight",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.layers.0.attention.q_proj.weight",
    "encoder.layers.1.attention.v_proj.bias",
    "encoder.layers.1.final_layer_norm.weight",
    "lm_head.bias",
    "projector.bias",
    "layer_weights",
)


def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


@torch.no_grad()
def fill(model: nn.Module) -> nn.Module:
    """Set every parameter by its name, such that each matters and activations keep their size."""
    for name, parameter in model.named_parameters():
        value = torch.from_numpy(noise(name, tuple(parameter.shape)))
        if name.endswith("norm.weight") or name.endswith("original0"):
            value = 1 + 0.2 * value
        elif parameter.dim() > 1:
            value = value / np.sqrt(parameter[0].numel())
        else:
            value = 0.2 * value
        parameter.copy_(value)
    return model


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms and mask, ``[B, S]``, with rows of very different length."""
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return torch.from_numpy(noise("waveforms", tuple(mask.shape))) * mask, mask


def answers(ctc: nn.Module, classifier: nn.Module) -> dict[str, torch.Tensor]:
    """Everything that is compared: states, attentions, logits, losses, and gradients of a few parameters."""
    waveforms, mask = inputs()
    found = {}
    for kind, attention_mask in (("plain", None), ("masked", mask)):
        for model, labels in ((ctc, LABELS), (classifier, CLASSES)):
            head = type(model).__name__.removeprefix("HubertFor")
            output = model(
                waveforms,
                attention_mask=attention_mask,
                labels=torch.tensor(labels),
                output_hidden_states=model is ctc,
                output_attentions=model is ctc,
            )
            found |= {f"{kind}.{head}.logits": output.logits, f"{kind}.{head}.loss": output.loss}
            if model is ctc:
                found |= {f"{kind}.hidden_states.{index}": state for index, state in enumerate(output.hidden_states)}
                found |= {f"{kind}.attentions.{index}": state for index, state in enumerate(output.attentions)}
                found[f"{kind}.last_hidden_state"] = model.hubert(waveforms, attention_mask=attention_mask)[0]
            if kind == "masked":
                model.zero_grad()
                output.loss.backward()
                gradients = {name.removeprefix("hubert."): parameter.grad for name, parameter in model.named_parameters()}
                found |= {f"gradient.{head}.{name}": gradients[name] for name in DIFFERENTIATED if name in gradients}
    return {name: tensor.detach() for name, tensor in found.items()}


def models(library, values: dict, dtype: torch.dtype = torch.float32):
    return [
        fill(getattr(library, name)(library.HubertConfig(**values))).eval().to(dtype)
        for name in ("HubertForCTC", "HubertForSequenceClassification")
    ]

"""Provide random state dicts and forward passes of fairseq's HuBERT and s3prl's DistilHuBERT, under their own names."""

import ast
import math

import torch
import torch.nn.functional as F
from torch import Tensor

CTC_PREFIX = "w2v_encoder.w2v_model."
LABELS = 24  # rows of label_embs_concat, the sizes of all label dictionaries together: 504 for k-means with 500
ACTIVATIONS = {"gelu": F.gelu, "gelu_accurate": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu}


def conv_layers(text: str) -> list[tuple[int, int, int]]:
    """Return the (channels, kernel, stride) of each convolution in a string such as "[(512,10,5)] + [(512,3,2)] * 4"."""

    def value(node: ast.expr):
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.List | ast.Tuple):
            return (list if isinstance(node, ast.List) else tuple)(value(item) for item in node.elts)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
            left, right = value(node.left), value(node.right)
            return left + right if isinstance(node.op, ast.Add) else left * right
        raise ValueError(f"not a list of convolutions: {text!r}")

    return value(ast.parse(text, mode="eval").body)


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _shapes(cfg: dict) -> dict[str, tuple[int, ...]]:
    shapes, channels, width = {}, 1, cfg["encoder_embed_dim"]
    for i, (outputs, kernel, _) in enumerate(conv_layers(cfg["conv_feature_layers"])):
        name = f"feature_extractor.conv_layers.{i}"
        shapes |= {f"{name}.0.weight": (outputs, channels, kernel)}
        shapes |= {f"{name}.0.bias": (outputs,)} if cfg.get("conv_bias", False) else {}
        if cfg["extractor_mode"] == "layer_norm":
            shapes |= _affine(f"{name}.2.1", outputs)  # .2.0 and .2.2 are transpositions
        elif i == 0:
            shapes |= _affine(f"{name}.2", outputs)
        channels = outputs
    if channels != width:
        shapes |= _affine("post_extract_proj", width, channels)
    conv, weight = "encoder.pos_conv", (width, width // cfg["conv_pos_groups"], cfg["conv_pos"])
    if cfg.get("conv_pos_batch_norm", False):  # [batch norm, convolution, SamePad, GELU]
        shapes |= _affine(f"{conv}.0", width) | {f"{conv}.0.running_mean": (width,), f"{conv}.0.running_var": (width,)}
        shapes |= {f"{conv}.0.num_batches_tracked": ()} | _affine(f"{conv}.1", *weight)
    else:  # [convolution, SamePad, GELU]
        shapes |= {f"{conv}.0.bias": (width,), f"{conv}.0.weight_g": (1, 1, weight[2]), f"{conv}.0.weight_v": weight}
    for i in range(cfg["encoder_layers"]):
        name, inner = f"encoder.layers.{i}", cfg["encoder_ffn_embed_dim"]
        for letter in ("k", "v", "q", "out"):
            shapes |= _affine(f"{name}.self_attn.{letter}_proj", width, width)
        shapes |= _affine(f"{name}.self_attn_layer_norm", width) | _affine(f"{name}.fc1", inner, width)
        shapes |= _affine(f"{name}.fc2", width, inner) | _affine(f"{name}.final_layer_norm", width)
    return shapes | _affine("encoder.layer_norm", width)


def _draw(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator, state = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000)
        elif name.endswith(("weight_g", "running_var")) or (len(shape) == 1 and name.endswith("weight")):
            state[name] = (1 + 0.2 * noise).abs()
        else:  # this scale keeps activations about equally large from layer to layer
            scale = min(0.3, max(0.1, 1.5 / math.prod(shape[1:]) ** 0.5)) if name.endswith("weight") else 0.2
            state[name] = scale * noise
    return state


def fairseq_state(cfg: dict, vocabulary_size: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Return a random state dict of fairseq's HubertModel or, with a vocabulary size V, HubertCtc (proj.weight [V, C])."""
    width, channels = cfg["encoder_embed_dim"], conv_layers(cfg["conv_feature_layers"])[-1][0]
    final = cfg.get("final_dim", 0) if cfg.get("final_dim", 0) > 0 else width
    shapes = {"mask_emb": (width,), "label_embs_concat": (LABELS, final)} | _shapes(cfg) | _affine("layer_norm", channels)
    if vocabulary_size is None:
        return _draw(shapes | _affine("final_proj", final, width), seed)
    # remove_pretraining_modules drops final_proj and target_glu; mask_emb and label_embs_concat stay.
    shapes = {CTC_PREFIX + name: shape for name, shape in shapes.items()}
    return _draw(shapes | _affine("w2v_encoder.proj", vocabulary_size, width), seed)


def distilhubert_state(config: dict, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights of s3prl's "expand-last" DistillerModel with n_tasks = N > 1 (output_layer.2.weight [N, I, D])."""
    width, tasks, final = config["encoder_embed_dim"], config.get("n_tasks", 3), config.get("final_dim", 768)
    inner = config.get("out_layer_inter_dim", -1) if config.get("out_layer_inter_dim", -1) > 0 else width
    shapes = _shapes(_fairseq_names(config)) | _affine("output_layer.0", inner * tasks, width)
    heads = {"output_layer.2.weight": (tasks, inner, final), "output_layer.2.bias": (1, 1, tasks, final)}
    return _draw(shapes | heads, seed)


def _fairseq_names(config: dict) -> dict:
    # The Distiller builds its extractor with conv_bias False, whatever the configuration says.
    return {**config, "conv_feature_layers": config["extractor_conv_feature_layers"], "conv_bias": False}


def _linear(state: dict, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _norm(state: dict, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _extract(state: dict, cfg: dict, waveform: Tensor) -> Tensor:
    x = waveform[:, None]  # [B, 1, S]
    for i, (width, _, stride) in enumerate(conv_layers(cfg["conv_feature_layers"])):
        name = f"feature_extractor.conv_layers.{i}"
        x = F.conv1d(x, state[f"{name}.0.weight"], state.get(f"{name}.0.bias"), stride)
        if cfg["extractor_mode"] == "layer_norm":
            x = _norm(state, f"{name}.2.1", x.transpose(1, 2)).transpose(1, 2)
        elif i == 0:
            x = F.group_norm(x, width, state[f"{name}.2.weight"], state[f"{name}.2.bias"])  # a group per channel
        x = F.gelu(x)
    return x.transpose(1, 2)  # [B, T, D]


def _position(state: dict, cfg: dict, x: Tensor) -> Tensor:
    x, kernel, conv = x.transpose(1, 2), cfg["conv_pos"], "encoder.pos_conv.0"  # [B, C, T]
    if cfg.get("conv_pos_batch_norm", False):
        mean, variance = state[f"{conv}.running_mean"], state[f"{conv}.running_var"]
        x = F.batch_norm(x, mean, variance, state[f"{conv}.weight"], state[f"{conv}.bias"])
        conv, weight = "encoder.pos_conv.1", state["encoder.pos_conv.1.weight"]
    else:  # weight_norm with dim=2 has one magnitude for each tap of the kernel
        direction = state[f"{conv}.weight_v"]
        weight = state[f"{conv}.weight_g"] * direction / direction.square().sum((0, 1), keepdim=True).sqrt()
    x = F.conv1d(x, weight, state[f"{conv}.bias"], padding=kernel // 2, groups=cfg["conv_pos_groups"])
    return F.gelu(x[..., :-1] if kernel % 2 == 0 else x).transpose(1, 2)


def _attention(state: dict, name: str, heads: int, x: Tensor) -> Tensor:
    batch, frames, width = x.shape
    q, k, v = (_linear(state, f"{name}.{letter}_proj", x) for letter in "qkv")
    q = q * (width // heads) ** -0.5
    q, k, v = (part.view(batch, frames, heads, -1).transpose(1, 2) for part in (q, k, v))  # [B, H, T, C / H]
    mixed = torch.softmax(q @ k.transpose(2, 3), dim=-1) @ v
    return _linear(state, f"{name}.out_proj", mixed.transpose(1, 2).reshape(batch, frames, width))


def _encode(state: dict, cfg: dict, x: Tensor, output_layer: int | None = None) -> Tensor:
    first, heads, activation = cfg["layer_norm_first"], cfg["encoder_attention_heads"], ACTIVATIONS[cfg["activation_fn"]]
    if "post_extract_proj.weight" in state:
        x = _linear(state, "post_extract_proj", x)
    x = x + _position(state, cfg, x)
    if not first:
        x = _norm(state, "encoder.layer_norm", x)
    for i in range(cfg["encoder_layers"] if output_layer is None else output_layer):
        name = f"encoder.layers.{i}"
        y = _norm(state, f"{name}.self_attn_layer_norm", x) if first else x
        x = x + _attention(state, f"{name}.self_attn", heads, y)
        x = x if first else _norm(state, f"{name}.self_attn_layer_norm", x)
        y = _norm(state, f"{name}.final_layer_norm", x) if first else x
        x = x + _linear(state, f"{name}.fc2", activation(_linear(state, f"{name}.fc1", y)))
        x = x if first else _norm(state, f"{name}.final_layer_norm", x)
    return _norm(state, "encoder.layer_norm", x) if first and output_layer is None else x


def fairseq_features(state: dict[str, Tensor], cfg: dict, waveform: Tensor, output_layer: int | None = None) -> Tensor:
    """Return the x [B, T, C] of HubertModel.extract_features for a waveform [B, S]; the state may be that of a HubertCtc.

    `output_layer` is that of extract_features and of dump_hubert_feature.py: 9 for the state after the ninth layer.
    """
    state = {name.removeprefix(CTC_PREFIX): tensor for name, tensor in state.items()}
    return _encode(state, cfg, _norm(state, "layer_norm", _extract(state, cfg, waveform)), output_layer)


def fairseq_ctc_logits(state: dict[str, Tensor], cfg: dict, waveform: Tensor) -> Tensor:
    """Return the logits [B, T, V] of HubertCtc for a waveform [B, S]; fairseq's encoder_out is their transpose [T, B, V]."""
    return _linear(state, "w2v_encoder.proj", fairseq_features(state, cfg, waveform))


def distilhubert_features(state: dict[str, Tensor], config: dict, waveform: Tensor) -> Tensor:
    """Return the hidden states [B, T, C] that the Distiller's encoder passes to its heads, for a waveform [B, S]."""
    cfg = _fairseq_names(config)
    return _encode(state, cfg, _extract(state, cfg, waveform))  # no norm of the extracted features

"""Define the parts of HuBERT as Keras layers, with the attributes and weight names of transformers' TensorFlow classes.

Arithmetic is that of `hubert_fast.layers`; sequences are channels-last, `[B, T, C]`, throughout. Every layer creates its
weights in `build`, whose nesting gives them their names, such as `hubert/encoder/layers.0/attention/k_proj/kernel`.

Axes: B batch, S samples, T frames, C channels, H heads, D head dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from ...config import HubertConfig

MASKED_SCORE = -1e30  # added to scores: far below all of them, and no sum of two is infinite
CONV_NORM_EPS = 1e-5  # of the norms in the feature encoder, whatever `layer_norm_eps` is


def _gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.gelu(x, approximate=True)


def _gelu(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {  # by transformers' names, as in `hubert_fast.layers`
    "gelu": _gelu,
    "gelu_10": lambda x: tf.clip_by_value(_gelu(x), -10, 10),
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.01),
    "linear": lambda x: x,
    "mish": lambda x: x * tf.tanh(tf.nn.softplus(x)),
    "quick_gelu": lambda x: x * tf.sigmoid(1.702 * x),
    "relu": tf.nn.relu,
    "relu2": lambda x: tf.square(tf.nn.relu(x)),
    "relu6": tf.nn.relu6,
    "sigmoid": tf.sigmoid,
    "silu": tf.nn.silu,
    "swish": tf.nn.silu,
    "tanh": tf.tanh,
}


def activation(field: str, name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the activation function that a field of the configuration names. Raises `ValueError` for an unknown name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"{field} must be one of {', '.join(ACTIVATIONS)}, but the configuration has {name!r}")
    return ACTIVATIONS[name]


def dims(x: tf.Tensor) -> list[Any]:
    """Return the shape of a tensor: numbers where they are known, scalar tensors elsewhere."""
    if x.shape.is_fully_defined():
        return x.shape.as_list()
    dynamic = tf.unstack(tf.shape(x))
    return [entry if known is None else known for known, entry in zip(x.shape.as_list(), dynamic)]


@contextmanager
def dtype_policy(policy: Any) -> Iterator[None]:
    """Construct layers with a dtype policy, which Keras otherwise takes from a setting of the thread."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def add_attributes(parent: keras.layers.Layer, name: str, layers: list[Any]) -> None:
    """Make each layer of a list an attribute of its own: `tf.train.Checkpoint` passes over the lists of Keras 3 in silence."""
    for index, layer in enumerate(layers):
        setattr(parent, f"{name}_{index}", layer)


class Linear(keras.layers.Dense):
    """A dense layer on rows: all leading axes are joined for one matrix product, `[..., C_in] -> [..., C_out]`."""

    def __init__(self, units: int, config: HubertConfig, name: str):
        super().__init__(units, kernel_initializer=keras.initializers.RandomNormal(stddev=config.initializer_range), name=name)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        rows = tf.reshape(x, [-1, x.shape[-1]])
        rows = tf.nn.bias_add(tf.matmul(rows, self.kernel), self.bias)
        return tf.reshape(rows, [*dims(x)[:-1], self.units])


class Norm(keras.layers.Layer):
    """The weights of a norm, one factor and one summand for each channel, in float32 whatever the policy."""

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1]
        self.gamma = self.add_weight(name="gamma", shape=(channels,), initializer="ones", autocast=False)
        self.beta = self.add_weight(name="beta", shape=(channels,), initializer="zeros", autocast=False)


class LayerNorm(Norm):
    """A norm over channels, `[..., C] -> [..., C]`. It makes fewer passes over memory than Keras's, which a CPU notices."""

    def __init__(self, eps: float, name: str):
        super().__init__(name=name)
        self.eps = eps

    def call(self, x: tf.Tensor) -> tf.Tensor:
        centred = tf.cast(x, tf.float32)
        centred -= tf.reduce_mean(centred, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        return tf.cast(centred * tf.math.rsqrt(variance + self.eps) * self.gamma + self.beta, x.dtype)


class GroupNorm(Norm):
    """A norm with one group for each channel, whose statistics are taken over time, `[B, T, C] -> [B, T, C]`."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        wide = tf.cast(x, tf.float32)
        mean, variance = tf.nn.moments(wide, axes=[1], keepdims=True)
        return tf.cast(tf.nn.batch_normalization(wide, mean, variance, self.beta, self.gamma, CONV_NORM_EPS), x.dtype)


class ConvLayer(keras.layers.Layer):
    """One strided convolution of the feature encoder, `[B, T_in, C_in] -> [B, T_out, C_out]`, without padding.

    Args:
        config: The configuration of the model.
        index: The index of the convolution.
        norm: `"group"` (one group per channel, statistics over time), `"layer"` (over channels) or `None`.
    """

    def __init__(self, config: HubertConfig, index: int, norm: str | None, name: str):
        super().__init__(name=name)
        self.in_channels = config.conv_dim[index - 1] if index else 1
        self.conv = keras.layers.Conv1D(
            config.conv_dim[index],
            config.conv_kernel[index],
            strides=config.conv_stride[index],
            use_bias=config.conv_bias,
            kernel_initializer="he_normal",
            data_format="channels_last",
            name="conv",
        )
        self.layer_norm: keras.layers.Layer | None = None
        if norm == "group":
            self.layer_norm = GroupNorm(name="layer_norm")
        elif norm == "layer":
            self.layer_norm = LayerNorm(CONV_NORM_EPS, name="layer_norm")
        self.activation = activation("feat_extract_activation", config.feat_extract_activation)

    def build(self, input_shape: Any = None) -> None:
        self.conv.build((None, None, self.in_channels))
        if self.layer_norm is not None:
            self.layer_norm.build((None, None, self.conv.filters))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = self.conv(x)
        return self.activation(x if self.layer_norm is None else self.layer_norm(x))


class FeatureEncoder(keras.layers.Layer):
    """Strided convolutions, seven in every published model: `[B, S]` to one feature vector per 20 ms, `[B, T, C_conv]`."""

    def __init__(self, config: HubertConfig, name: str):
        super().__init__(name=name)
        layers = len(config.conv_dim)
        norms = ["layer"] * layers if config.feat_extract_norm == "layer" else ["group"] + [None] * (layers - 1)
        self.conv_layers = [ConvLayer(config, index, norm, f"conv_layers.{index}") for index, norm in enumerate(norms)]
        add_attributes(self, "conv_layer", self.conv_layers)

    def build(self, input_shape: Any = None) -> None:
        for layer in self.conv_layers:
            layer.build()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.expand_dims(x, -1)
        for layer in self.conv_layers:
            x = layer(x)
        return x


class FeatureProjection(keras.layers.Layer):
    """LayerNorm and linear projection of features, `[B, T, C_conv] -> [B, T, C]`."""

    def __init__(self, config: HubertConfig, name: str):
        super().__init__(name=name)
        self.in_channels = config.conv_dim[-1]
        self.layer_norm: keras.layers.Layer | None = None
        if config.feat_proj_layer_norm:
            self.layer_norm = LayerNorm(config.layer_norm_eps, name="layer_norm")
        self.projection = Linear(config.hidden_size, config, name="projection")
        self.dropout = keras.layers.Dropout(config.feat_proj_dropout)

    def build(self, input_shape: Any = None) -> None:
        if self.layer_norm is not None:
            self.layer_norm.build((None, None, self.in_channels))
        self.projection.build((None, None, self.in_channels))

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = x if self.layer_norm is None else self.layer_norm(x)
        return self.dropout(self.projection(x), training=training)


class WeightNormConv1D(keras.layers.Layer):
    """A grouped convolution over time, padded by half its kernel, whose weight is normalised for each tap.

    Each group is a convolution of its own: TensorFlow's grouped convolution has no gradient on a CPU.

    Attributes:
        weight_v: `[C, C / groups, K]`, the direction of the weight, laid out as in PyTorch and in transformers.
        weight_g: `[K, 1, 1]`, the norm over (out, in) for each tap. Absent without weight norm.
    """

    def __init__(self, config: HubertConfig, name: str):
        super().__init__(name=name)
        self.channels = config.hidden_size
        self.taps = config.num_conv_pos_embeddings
        self.groups = config.num_conv_pos_embedding_groups
        self.is_normalized = not config.conv_pos_batch_norm

    def build(self, input_shape: Any = None) -> None:
        bound = 1 / math.sqrt(self.channels // self.groups * self.taps)
        uniform = keras.initializers.RandomUniform(-bound, bound)
        if self.is_normalized:
            shape = (self.channels, self.channels // self.groups, self.taps)
            self.weight_v = self.add_weight(name="weight_v", shape=shape, initializer=uniform, autocast=False)
            self.weight_g = self.add_weight(name="weight_g", shape=(self.taps, 1, 1), initializer="ones", autocast=False)
            self.weight_g.assign(tf.sqrt(tf.reduce_sum(tf.square(self.weight_v), axis=[0, 1]))[:, None, None])
        else:
            shape = (self.taps, self.channels // self.groups, self.channels)
            self.weight = self.add_weight(name="kernel", shape=shape, initializer=uniform, autocast=False)
        self.bias = self.add_weight(name="bias", shape=(self.channels,), initializer="zeros")

    @property
    def kernel(self) -> tf.Tensor:
        """The weight `[K, C / groups, C]`."""
        if not self.is_normalized:
            return tf.convert_to_tensor(self.weight)
        factors = tf.reshape(self.weight_g, [-1]) * tf.math.rsqrt(tf.reduce_sum(tf.square(self.weight_v), axis=[0, 1]))
        return tf.transpose(self.weight_v * factors, [2, 1, 0])

    def call(self, x: tf.Tensor) -> tf.Tensor:
        # SamePad drops the last frame of an even kernel, so the padding that only it reads is left out
        x = tf.pad(x, [[0, 0], [self.taps // 2, (self.taps - 1) // 2], [0, 0]])
        pairs = zip(tf.split(x, self.groups, axis=-1), tf.split(tf.cast(self.kernel, x.dtype), self.groups, axis=-1))
        return tf.nn.bias_add(tf.concat([tf.nn.conv1d(part, kernel, 1, "VALID") for part, kernel in pairs], -1), self.bias)


class PositionalConvEmbedding(keras.layers.Layer):
    """Relative positional embedding: a grouped convolution over time with a large kernel, `[B, T, C] -> [B, T, C]`."""

    def __init__(self, config: HubertConfig, name: str):
        super().__init__(name=name)
        self.channels = config.hidden_size
        self.conv = WeightNormConv1D(config, name="conv")
        self.batch_norm: keras.layers.Layer | None = None
        if config.conv_pos_batch_norm:
            self.batch_norm = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="batch_norm")
        self.activation = activation("feat_extract_activation", config.feat_extract_activation)

    def build(self, input_shape: Any = None) -> None:
        self.conv.build()
        if self.batch_norm is not None:
            self.batch_norm.build((None, None, self.channels))

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = x if self.batch_norm is None else self.batch_norm(x, training=training)
        return self.activation(self.conv(x))


class Attention(keras.layers.Layer):
    """Multi-head self-attention, `[B, T, C] -> [B, T, C]`, which also returns the probabilities `[B, H, T, T]`."""

    def __init__(self, config: HubertConfig, name: str):
        super().__init__(name=name)
        self.channels = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.head_dim = self.channels // self.num_heads
        self.scaling = self.head_dim**-0.5
        self.k_proj = Linear(self.channels, config, name="k_proj")
        self.q_proj = Linear(self.channels, config, name="q_proj")
        self.v_proj = Linear(self.channels, config, name="v_proj")
        self.out_proj = Linear(self.channels, config, name="out_proj")
        self.dropout = keras.layers.Dropout(config.attention_dropout)

    def build(self, input_shape: Any = None) -> None:
        for projection in (self.k_proj, self.q_proj, self.v_proj, self.out_proj):
            projection.build((None, None, self.channels))

    def call(
        self, x: tf.Tensor, key_mask: tf.Tensor | None = None, head_mask: tf.Tensor | None = None, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the attended values and the probabilities.

        Args:
            x: `[B, T, C]`.
            key_mask: bool `[B, T]`, False for padding. Every row must have a True.
            head_mask: `[H]`, a factor for the probabilities of each head.
            training: Whether dropout is active.
        """
        rows, frames, _ = dims(x)

        def heads(x: tf.Tensor) -> tf.Tensor:
            return tf.transpose(tf.reshape(x, [rows, frames, self.num_heads, self.head_dim]), [0, 2, 1, 3])

        q, k, v = heads(self.q_proj(x) * self.scaling), heads(self.k_proj(x)), heads(self.v_proj(x))
        scores = tf.cast(tf.matmul(q, k, transpose_b=True), tf.float32)
        if key_mask is not None:
            scores += tf.reshape(tf.where(key_mask, 0.0, MASKED_SCORE), [rows, 1, 1, frames])
        probabilities = tf.cast(tf.nn.softmax(scores), x.dtype)
        if head_mask is not None:
            probabilities *= tf.reshape(tf.cast(head_mask, x.dtype), [-1, 1, 1])
        context = tf.transpose(tf.matmul(self.dropout(probabilities, training=training), v), [0, 2, 1, 3])
        return self.out_proj(tf.reshape(context, [rows, frames, self.channels])), probabilities


class FeedForward(keras.layers.Layer):
    """Two linear layers with an activation between them, `[..., C] -> [..., C]`."""

    def __init__(self, config: HubertConfig, name: str):
        super().__init__(name=name)
        self.channels = config.hidden_size
        self.intermediate_dense = Linear(config.intermediate_size, config, name="intermediate_dense")
        self.intermediate_dropout = keras.layers.Dropout(config.activation_dropout)
        self.output_dense = Linear(config.hidden_size, config, name="output_dense")
        self.output_dropout = keras.layers.Dropout(config.hidden_dropout)
        self.intermediate_act_fn = activation("hidden_act", config.hidden_act)

    def build(self, input_shape: Any = None) -> None:
        self.intermediate_dense.build((None, None, self.channels))
        self.output_dense.build((None, None, self.intermediate_dense.units))

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = self.intermediate_dropout(self.intermediate_act_fn(self.intermediate_dense(x)), training=training)
        return self.output_dropout(self.output_dense(x), training=training)


class AttentionAdapter(keras.layers.Layer):
    """The bottleneck after each pre-LN layer if `adapter_attn_dim` is set, `[..., C] -> [..., C]` (Pratap et al. 2023, MMS)."""

    def __init__(self, config: HubertConfig, name: str):
        super().__init__(name=name)
        assert config.adapter_attn_dim is not None  # adapters exist only when it is set
        self.channels = config.hidden_size
        self.norm = LayerNorm(1e-5, name="norm")
        self.linear_1 = Linear(config.adapter_attn_dim, config, name="linear_1")
        self.linear_2 = Linear(config.hidden_size, config, name="linear_2")

    def build(self, input_shape: Any = None) -> None:
        self.norm.build((None, None, self.channels))
        self.linear_1.build((None, None, self.channels))
        self.linear_2.build((None, None, self.linear_1.units))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.linear_2(tf.nn.relu(self.linear_1(self.norm(x))))


class EncoderLayer(keras.layers.Layer):
    """One Transformer layer, `[B, T, C] -> [B, T, C]`, with norms before its blocks or after their residual adds."""

    def __init__(self, config: HubertConfig, name: str):
        super().__init__(name=name)
        self.channels = config.hidden_size
        self.normalize_before = config.do_stable_layer_norm
        self.attention = Attention(config, name="attention")
        self.dropout = keras.layers.Dropout(config.hidden_dropout)
        self.layer_norm = LayerNorm(config.layer_norm_eps, name="layer_norm")
        self.feed_forward = FeedForward(config, name="feed_forward")
        self.final_layer_norm = LayerNorm(config.layer_norm_eps, name="final_layer_norm")
        self.adapter_layer: keras.layers.Layer | None = None
        if self.normalize_before and config.adapter_attn_dim is not None:
            self.adapter_layer = AttentionAdapter(config, name="adapter_layer")

    def build(self, input_shape: Any = None) -> None:
        self.attention.build()
        self.layer_norm.build((None, None, self.channels))
        self.feed_forward.build()
        self.final_layer_norm.build((None, None, self.channels))
        if self.adapter_layer is not None:
            self.adapter_layer.build()

    def call(
        self, x: tf.Tensor, key_mask: tf.Tensor | None = None, head_mask: tf.Tensor | None = None, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the output and the attention probabilities. The arguments are those of `Attention.call`."""
        attended, probabilities = self.attention(
            self.layer_norm(x) if self.normalize_before else x, key_mask, head_mask, training=training
        )
        x = x + self.dropout(attended, training=training)
        if self.normalize_before:
            x = x + self.feed_forward(self.final_layer_norm(x), training=training)
            if self.adapter_layer is not None:
                x = x + self.adapter_layer(x)
        else:
            x = self.layer_norm(x)
            x = self.final_layer_norm(x + self.feed_forward(x, training=training))
        return x, probabilities

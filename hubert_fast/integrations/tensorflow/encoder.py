"""Define the encoder as Keras layers: the positional convolution and the Transformer, and all of HuBERT without a head."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ...config import HubertConfig
from .eager import EagerGraphs
from .inputs import ARGUMENTS, gather_inputs
from .layers import (
    EncoderLayer,
    FeatureEncoder,
    FeatureProjection,
    LayerNorm,
    PositionalConvEmbedding,
    add_attributes,
    dims,
    dtype_policy,
)
from .masks import frame_counts, row_frame_counts, sample_spec_augment_mask
from .outputs import TFBaseModelOutput


class Encoder(keras.layers.Layer):
    """Positional convolution and Transformer layers over projected frames `[B, T, C]`.

    Attributes:
        layer: The Transformer layers.
    """

    def __init__(self, config: HubertConfig, name: str):
        super().__init__(name=name)
        self.config = config
        self.normalize_before = config.do_stable_layer_norm
        self.pos_conv_embed = PositionalConvEmbedding(config, name="pos_conv_embed")
        self.layer_norm = LayerNorm(config.layer_norm_eps, name="layer_norm")
        self.dropout = keras.layers.Dropout(config.hidden_dropout)
        self.layer = [EncoderLayer(config, name=f"layers.{index}") for index in range(config.num_hidden_layers)]
        add_attributes(self, "layer", self.layer)
        self.layerdrop_seed = keras.random.SeedGenerator()

    def build(self, input_shape: Any = None) -> None:
        self.pos_conv_embed.build()
        self.layer_norm.build((None, None, self.config.hidden_size))
        for layer in self.layer:
            layer.build()

    def call(
        self,
        x: tf.Tensor,
        counts: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        training: bool = False,
    ) -> TFBaseModelOutput:
        """Encode frames.

        Args:
            x: `[B, T, C]`.
            counts: int32 `[B]`, the frames of each row that are not padding. Padded frames are set to zero first.
            head_mask: `[H]` or `[L, H]`, a factor for the attention probabilities of each head.
            output_attentions: Whether to return attention probabilities.
            output_hidden_states: Whether to return hidden states.
            training: Whether dropout and LayerDrop are active.
        """
        key_mask = None
        if counts is not None:
            frame_mask = tf.sequence_mask(counts, dims(x)[1])
            x = tf.where(tf.expand_dims(frame_mask, -1), x, tf.zeros([], x.dtype))
            # A row that is all padding may attend anywhere: its result is meaningless, but must be finite.
            key_mask = frame_mask | tf.expand_dims(counts == 0, -1)
        x = x + self.pos_conv_embed(x, training=training)
        if not self.normalize_before:
            x = self.layer_norm(x)
        x = self.dropout(x, training=training)

        states, attentions = [x], []
        for index, layer in enumerate(self.layer):
            of_layer = head_mask if head_mask is None or head_mask.shape.rank == 1 else head_mask[index]
            x, probabilities = self._layer_or_nothing(layer, x, key_mask, of_layer, output_attentions, training)
            states.append(x)
            attentions.append(probabilities)
        if self.normalize_before:
            x = states[-1] = self.layer_norm(x)
        return TFBaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _layer_or_nothing(
        self,
        layer: EncoderLayer,
        x: tf.Tensor,
        key_mask: tf.Tensor | None,
        head_mask: tf.Tensor | None,
        output_attentions: bool,
        training: bool,
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Run a layer or, in training with the probability of LayerDrop, return its input (Fan et al. 2019)."""
        if not training or self.config.layerdrop <= 0:
            return layer(x, key_mask, head_mask, training=training)
        rows, frames, _ = dims(x)
        no_attention = [rows, self.config.num_attention_heads, frames, frames] if output_attentions else [0]

        def run() -> tuple[tf.Tensor, tf.Tensor]:
            y, probabilities = layer(x, key_mask, head_mask, training=True)
            return y, probabilities if output_attentions else tf.zeros(no_attention, x.dtype)

        keeps = keras.random.uniform((), seed=self.layerdrop_seed) >= self.config.layerdrop
        return tf.cond(keeps, run, lambda: (tf.identity(x), tf.zeros(no_attention, x.dtype)))


class TFHubertMainLayer(keras.layers.Layer):
    """HuBERT without a head, for models with a head of their own: `self.hubert = TFHubertMainLayer(config, name="hubert")`."""

    _eager_graphs: EagerGraphs

    def __init__(self, config: HubertConfig, **options: Any):
        super().__init__(**options)
        self.config = config
        with dtype_policy(self.dtype_policy):
            self.feature_extractor = FeatureEncoder(config, name="feature_extractor")
            self.feature_projection = FeatureProjection(config, name="feature_projection")
            self.encoder = Encoder(config, name="encoder")
        self.spec_augment_seed = keras.random.SeedGenerator()
        object.__setattr__(self, "_eager_graphs", EagerGraphs())  # not an attribute that Keras tracks

    def build(self, input_shape: Any = None) -> None:
        self.masked_spec_embed = self.add_weight(
            name="masked_spec_embed", shape=(self.config.hidden_size,), initializer=keras.initializers.RandomUniform(0, 1)
        )
        self.feature_extractor.build()
        self.feature_projection.build()
        self.encoder.build()

    def call(
        self,
        input_values: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
        mask_time_indices: Any = None,
    ) -> TFBaseModelOutput | tuple:
        """Encode waveforms. See `TFHubertModel.call`; `mask_time_indices`, bool `[B, T]`, are frames to mask in training."""
        inputs = gather_inputs(
            self.config,
            input_values,
            self.compute_dtype,
            ARGUMENTS,
            attention_mask=attention_mask,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        tensors = inputs.input_values, inputs.attention_mask, inputs.head_mask
        outputs = inputs.output_attentions, inputs.output_hidden_states
        if training:
            output = self._encode(*tensors, *outputs, True, mask_time_indices)
        else:
            output = self._eager_graphs.run(self, self._encode, tensors, outputs)
        return output if inputs.return_dict else output.to_tuple()

    def _encode(
        self,
        waveforms: tf.Tensor,
        attention_mask: tf.Tensor | None,
        head_mask: tf.Tensor | None,
        output_attentions: bool,
        output_hidden_states: bool,
        training: bool = False,
        mask_time_indices: Any = None,
    ) -> TFBaseModelOutput:
        x = self.feature_projection(self.feature_extractor(waveforms), training=training)
        counts = None
        if attention_mask is not None:
            counts = row_frame_counts(attention_mask, dims(x)[1], self.config)
        if training and self.config.apply_spec_augment:
            x = self._spec_augment(x, mask_time_indices)
        return self.encoder(
            x,
            counts,
            head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            training=training,
        )

    def _spec_augment(self, x: tf.Tensor, mask_time_indices: Any) -> tf.Tensor:
        """Mask spans of time, then spans of channels, in projected frames `[B, T, C]`."""
        config = self.config
        rows, frames, channels = dims(x)
        if mask_time_indices is None and config.mask_time_prob > 0:
            mask_time_indices = sample_spec_augment_mask(
                rows,
                frames,
                config.mask_time_prob,
                config.mask_time_length,
                config.mask_time_min_masks,
                self.spec_augment_seed,
            )
        if mask_time_indices is not None:
            is_masked = tf.cast(mask_time_indices, tf.bool)
            x = tf.where(tf.expand_dims(is_masked, -1), tf.cast(self.masked_spec_embed, x.dtype), x)
        if config.mask_feature_prob > 0:
            is_masked = sample_spec_augment_mask(
                rows,
                channels,
                config.mask_feature_prob,
                config.mask_feature_length,
                config.mask_feature_min_masks,
                self.spec_augment_seed,
            )
            x = tf.where(tf.expand_dims(is_masked, 1), tf.zeros([], x.dtype), x)
        return x

    def frame_counts(self, sample_counts: Any) -> tf.Tensor:
        """Return the frame count for each sample count, int32 of any shape; 0 below the receptive field (400 samples)."""
        return frame_counts(tf.convert_to_tensor(sample_counts), self.config)

    def _get_feat_extract_output_lengths(self, input_lengths: Any) -> tf.Tensor:
        """Call `frame_counts`, which published code calls by this private name of transformers."""
        return self.frame_counts(input_lengths)

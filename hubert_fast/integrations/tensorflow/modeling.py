"""Define HuBERT in TensorFlow, as Keras 3 models with the calls of transformers' TensorFlow classes.

    waveform [B, S] -> FeatureEncoder [B, T, C_conv] -> FeatureProjection [B, T, C] -> Encoder [B, T, C] -> head

The arithmetic is that of `hubert_fast.modeling`. Axes: B batch, S samples, T frames, C channels, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ...config import HubertConfig
from .encoder import TFHubertMainLayer
from .inputs import ARGUMENTS, gather_inputs
from .layers import Linear, dtype_policy
from .loss import ctc_loss
from .masks import fill_padding, row_frame_counts
from .outputs import TFBaseModelOutput, TFCausalLMOutput
from .pretrained import INPUT_SHAPE, TFHubertPreTrainedModel

__all__ = ["TFHubertForCTC", "TFHubertModel"]

CTC_ARGUMENTS = (*ARGUMENTS, "labels")


@keras.saving.register_keras_serializable("hubert_fast")
class TFHubertModel(TFHubertPreTrainedModel):
    """The encoder without a head: from waveforms to one vector per 20 ms."""

    def __init__(self, config: HubertConfig, name: str | None = None, dtype: Any = None, trainable: bool = True):
        super().__init__(config, name, dtype, trainable)
        self.hubert = TFHubertMainLayer(self.config, name="hubert", dtype=self.dtype_policy)
        self.build(INPUT_SHAPE)

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
    ) -> TFBaseModelOutput | tuple:
        """Encode waveforms. The states of padded frames are meaningless.

        Args:
            input_values: Waveforms `[B, S]`, float at 16 kHz, normalised as the checkpoint's `preprocessor_config.json`
                specifies. Or the inputs as a dictionary, or as a list in the order of these arguments.
            attention_mask: `[B, S]`, 1 for samples and 0 for the padding after them. A row with fewer samples than the
                receptive field (400) has no frames, and does not affect other rows.
            token_type_ids: No effect: waveforms have no segments.
            position_ids: No effect: positions come from a convolution.
            head_mask: `[H]` or `[L, H]`, a factor for the attention probabilities of each head, of all layers or of each.
            inputs_embeds: Must be `None`.
            output_attentions: Whether to return the attention probabilities of each layer, `[B, H, T, T]`.
            output_hidden_states: Whether to return the input of the first layer and the output of each, `[B, T, C]`.
            return_dict: Whether to return an output object instead of a tuple. This and the two arguments above are `None` for
                the configuration's setting.
            training: Whether SpecAugment, dropout and LayerDrop are active.

        Raises:
            ValueError: An input is missing, unknown, of the wrong shape or dtype, or too short for a single frame.
        """
        return self.hubert(
            input_values,
            attention_mask=attention_mask,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
            training=training,
        )


@keras.saving.register_keras_serializable("hubert_fast")
class TFHubertForCTC(TFHubertPreTrainedModel):
    """HuBERT with a linear layer over the vocabulary, for connectionist temporal classification."""

    def __init__(self, config: HubertConfig, name: str | None = None, dtype: Any = None, trainable: bool = True):
        super().__init__(config, name, dtype, trainable)
        with dtype_policy(self.dtype_policy):
            self.hubert = TFHubertMainLayer(self.config, name="hubert")
            self.dropout = keras.layers.Dropout(self.config.final_dropout)
            self.lm_head = Linear(self.config.vocab_size, self.config, name="lm_head")
        self.build(INPUT_SHAPE)

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        if not self.lm_head.built:
            self.lm_head.build((None, None, self.config.hidden_size))

    def call(
        self,
        input_values: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        labels: Any = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> TFCausalLMOutput | tuple:
        """Return logits `[B, T, V]` and, with labels, the CTC loss (Graves et al. 2006).

        With a mask and outside training, the logits of padded frames are 100 for the blank (`config.pad_token_id`) and -100 for
        the other tokens, so that greedy and beam search write nothing there; zeros if `pad_token_id` is not in the vocabulary.

        Args:
            input_values, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, output_attentions,
                output_hidden_states, return_dict, training: See `TFHubertModel.call`.
            labels: Integers `[B, L]`; negative values are padding. The blank is `config.pad_token_id`. Without an
                `attention_mask`, all frames count.

        Raises:
            ValueError: A label is not in the vocabulary (in a graph: `tf.errors.InvalidArgumentError`), or an input is
                missing, unknown or of the wrong shape or dtype.
        """
        inputs = gather_inputs(
            self.config,
            input_values,
            self.compute_dtype,
            CTC_ARGUMENTS,
            attention_mask=attention_mask,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            labels=labels,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        encoded = self.hubert(
            inputs.input_values,
            attention_mask=inputs.attention_mask,
            head_mask=inputs.head_mask,
            output_attentions=inputs.output_attentions,
            output_hidden_states=inputs.output_hidden_states,
            return_dict=True,
            training=training,
        )
        logits = self.lm_head(self.dropout(encoded.last_hidden_state, training=training))
        rows, frames = tf.shape(logits)[0], tf.shape(logits)[1]
        if inputs.attention_mask is None:
            counts = tf.fill([rows], frames)
        else:
            counts = row_frame_counts(inputs.attention_mask, frames, self.config)
            if not training:
                logits = fill_padding(logits, counts, self.config.pad_token_id)
        output = TFCausalLMOutput(
            loss=None if inputs.labels is None else ctc_loss(logits, counts, inputs.labels, self.config),
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return output if inputs.return_dict else output.to_tuple()

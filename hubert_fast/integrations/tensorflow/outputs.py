"""Define what the TensorFlow models return: dictionaries that can also be read by attribute, by index and as a tuple."""

from __future__ import annotations

import optree
import tensorflow as tf

from ...outputs import ModelOutput


class TFModelOutput(ModelOutput):
    """The base class of the outputs of the TensorFlow models. `tf.nest` and Keras look for tensors in it."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        optree.register_pytree_node(
            cls,
            lambda output: (list(output.values()), tuple(output), tuple(output)),
            lambda names, values: cls(zip(names, values)),
            namespace="keras",
        )


class TFBaseModelOutput(TFModelOutput):
    """The output of `TFHubertModel`.

    Attributes:
        last_hidden_state: `[B, T, C]`.
        hidden_states: `num_hidden_layers + 1` tensors `[B, T, C]`: the input of the first layer, then the output of each layer.
        attentions: `num_hidden_layers` tensors `[B, H, T, T]`: the attention weights, after the softmax, of each layer; zeros
            in place of a layer that LayerDrop skipped.
    """

    last_hidden_state: tf.Tensor
    hidden_states: tuple[tf.Tensor, ...] | None
    attentions: tuple[tf.Tensor, ...] | None


class TFCausalLMOutput(TFModelOutput):
    """The output of `TFHubertForCTC`.

    Attributes:
        loss: The CTC loss if labels were given: `[1]`, or `[B]` if `config.ctc_loss_reduction` is `"none"`.
        logits: `[B, T, V]`, before the softmax.
        hidden_states: As in `TFBaseModelOutput`.
        attentions: As in `TFBaseModelOutput`.
    """

    loss: tf.Tensor | None
    logits: tf.Tensor
    hidden_states: tuple[tf.Tensor, ...] | None
    attentions: tuple[tf.Tensor, ...] | None

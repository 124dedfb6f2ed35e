"""Define the CTC loss of the TensorFlow models."""

from __future__ import annotations

import tensorflow as tf

from ...config import HubertConfig


def ctc_loss(logits: tf.Tensor, counts: tf.Tensor, labels: tf.Tensor, config: HubertConfig) -> tf.Tensor:
    """Return the CTC loss (Graves et al. 2006) with the reduction that the configuration documents, as PyTorch computes it.

    Args:
        logits: `[B, T, V]`.
        counts: int32 `[B]`, the frames of each row.
        labels: Integers `[B, L]`; negative values are padding.
        config: The configuration, which has the blank (`pad_token_id`), `ctc_loss_reduction` and `ctc_zero_infinity`.

    Returns:
        float32 `[1]`; `[B]` without a reduction. The mean divides each row's loss by the number of its labels. The loss of
        labels too long for their frames is infinite, or 0 with `ctc_zero_infinity`.
    """
    labels, lengths = _left_aligned(_checked(labels, config.vocab_size))
    losses = tf.nn.ctc_loss(
        labels=labels,
        logits=tf.cast(logits, tf.float32),
        label_length=lengths,
        logit_length=counts,
        blank_index=config.pad_token_id,
        logits_time_major=False,
    )
    is_label = tf.sequence_mask(lengths, tf.shape(labels)[1])
    repeats = tf.reduce_sum(tf.cast((labels[:, 1:] == labels[:, :-1]) & is_label[:, 1:], tf.int32), axis=-1)
    is_possible = lengths + repeats <= counts  # a blank must separate equal neighbours
    losses = tf.where(is_possible, losses, 0.0 if config.ctc_zero_infinity else float("inf"))
    if config.ctc_loss_reduction == "none":
        return losses
    if config.ctc_loss_reduction == "sum":
        return tf.reduce_sum(losses)[None]
    return tf.reduce_mean(losses / tf.cast(tf.maximum(lengths, 1), tf.float32))[None]


def _checked(labels: tf.Tensor, vocab_size: int) -> tf.Tensor:
    """Return labels as int32. Raises `ValueError`, or `InvalidArgumentError` in a graph, if one is not in the vocabulary."""
    whole = tf.cast(labels, tf.int32)
    message = f"labels must be whole numbers below vocab_size ({vocab_size})"
    if tf.executing_eagerly():
        if bool(tf.reduce_any(whole >= vocab_size)) or bool(tf.reduce_any(tf.cast(whole, labels.dtype) != labels)):
            raise ValueError(f"{message}, but reach {labels.numpy().max()}")
        return whole
    with tf.control_dependencies([tf.debugging.assert_less(whole, vocab_size, message)]):
        return tf.identity(whole)


def _left_aligned(labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return labels without the negative ones among them, padded with zeros on the right, and the number of each row.

    There is at least one zero, since `tf.nn.ctc_loss` is wrong for labels of no columns.
    """
    is_label = labels >= 0
    order = tf.argsort(tf.cast(~is_label, tf.int32), axis=-1, stable=True)
    aligned = tf.gather(tf.maximum(labels, 0), order, batch_dims=1)
    return tf.pad(aligned, [[0, 0], [0, 1]]), tf.reduce_sum(tf.cast(is_label, tf.int32), axis=-1)

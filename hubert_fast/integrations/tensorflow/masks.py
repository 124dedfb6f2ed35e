"""Compute frame counts and masks, draw SpecAugment's masks, and fill the logits of padding."""

from __future__ import annotations

import keras
import tensorflow as tf

from ...config import HubertConfig
from ...ctc.padding import CERTAIN


def frame_counts(sample_counts: tf.Tensor, config: HubertConfig) -> tf.Tensor:
    """Return the frame count for each sample count, int32 of any shape; 0 below the receptive field (400 samples)."""
    counts = (tf.cast(sample_counts, tf.int32) - config.receptive_field) // config.inputs_to_logits_ratio + 1
    return tf.maximum(counts, 0)


def row_frame_counts(attention_mask: tf.Tensor, frames: tf.Tensor | int, config: HubertConfig) -> tf.Tensor:
    """Return the frames of each row, int32 `[B]`, from a sample mask, int32 `[B, S]`. Only the row sums of the mask matter."""
    samples = tf.reduce_sum(attention_mask, axis=-1)
    return tf.minimum(frame_counts(samples, config), frames)


def fill_padding(logits: tf.Tensor, counts: tf.Tensor, blank_id: int | None) -> tf.Tensor:
    """Return logits `[B, T, V]` in which padded frames have 100 for the blank and -100 for all other tokens.

    If `blank_id` is not a token of the vocabulary, padded frames are zero.
    """
    vocab_size = logits.shape[-1]
    if blank_id is None or not 0 <= blank_id < vocab_size:
        padding = tf.zeros(vocab_size, logits.dtype)
    else:
        padding = tf.one_hot(blank_id, vocab_size, CERTAIN, -CERTAIN, dtype=logits.dtype)
    is_frame = tf.sequence_mask(counts, tf.shape(logits)[1])
    return tf.where(tf.expand_dims(is_frame, -1), logits, padding)


def sample_spec_augment_mask(
    rows: tf.Tensor, size: tf.Tensor | int, probability: float, length: int, min_masks: int, seed: keras.random.SeedGenerator
) -> tf.Tensor:
    """Draw a bool mask `[rows, size]` in which about `probability` of each row lies in spans of `length`.

    This is SpecAugment (Park et al. 2019, https://arxiv.org/abs/1904.08779) in the variant of wav2vec 2.0, as in
    `hubert_fast.spec_augment`: a number rounds the span count up or down at random, then each row gets spans that start at
    different positions and may overlap. The draws come from Keras's generator, in the graph.

    Args:
        rows: The number of rows, a scalar.
        size: The number of positions.
        probability: The share of each row to mask, if no spans overlapped.
        length: The length of a span.
        min_masks: The smallest number of spans in a row, as far as they fit.
        seed: The generator.

    Raises:
        ValueError: A span is longer than a row, and the length of rows is known. Else TensorFlow's `InvalidArgumentError`.
    """
    message = f"the mask length must be between 1 and the number of positions, but is {length}"
    if not length >= 1 or (isinstance(size, int) and length > size):
        raise ValueError(f"{message}, and there are {size} positions")
    if not isinstance(size, int):
        with tf.control_dependencies([tf.debugging.assert_less_equal(length, size, message)]):
            size = tf.identity(size)
    real = probability * tf.cast(size, tf.float32) / length + keras.random.uniform((), seed=seed)
    spans = tf.minimum(tf.maximum(tf.cast(real, tf.int32), min_masks), size // length)
    order = keras.random.uniform((rows, size - length + 1), seed=seed)
    rank = tf.argsort(tf.argsort(order))  # a random permutation: the first `spans` of it are starts
    starts = tf.pad(tf.cast(rank < spans, tf.int32), [[0, 0], [length, length - 1]])
    begun = tf.cumsum(starts, axis=1)  # spans that began up to a position, `length` positions later
    return (begun[:, length : length + size] - begun[:, :size]) > 0

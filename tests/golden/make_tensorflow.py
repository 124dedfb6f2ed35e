"""Make the golden answers of transformers 4.34.1's TensorFlow classes: ``python tests/golden/make_tensorflow.py``.

Needs tensorflow 2.15, transformers==4.34.1, torch and numpy<2. The weights, inputs and masks are those of ``post_ln`` and
``pre_ln``, which make.py made. ``tensorflow`` gets, for each, the answers: states, attentions, logits, losses, and the gradient
of each weight by its name in TensorFlow. It also gets what ``save_pretrained`` writes for ``post_ln``: a ``tf_model.h5``, and
safetensors with TensorFlow's names. XLA computes the gradients below the logits, since TensorFlow 2.15 has none of a grouped
convolution on a CPU; it cannot compute the loss.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
import transformers
from transformers import TFHubertForCTC

GOLDEN = Path(__file__).parent
LABELS = np.array([[3, 4, 4, 5, -100], [6, 7, -100, -100, -100], [8, -100, -100, -100, -100]], np.int32)


def main() -> None:
    assert transformers.__version__ == "4.34.1", transformers.__version__
    folder = GOLDEN / "tensorflow"
    folder.mkdir(exist_ok=True)
    for name in ("post_ln", "pre_ln"):
        model = TFHubertForCTC.from_pretrained(GOLDEN / name, from_pt=True)
        inputs = np.load(GOLDEN / name / "expected.npz")
        np.savez_compressed(folder / f"{name}.npz", labels=LABELS, **answers(model, inputs["waveforms"], inputs["mask"]))
        if name == "post_ln":
            model.save_pretrained(folder / "h5")
            model.save_pretrained(folder / "safetensors", safe_serialization=True)


def answers(model: TFHubertForCTC, waveforms: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    found = {}
    for kind, attention_mask in (("plain", None), ("masked", tf.constant(mask, tf.int32))):
        output = model(waveforms, attention_mask=attention_mask, output_hidden_states=True, output_attentions=True)
        found[f"{kind}.logits"] = output.logits
        found |= {f"{kind}.hidden_states.{index}": state for index, state in enumerate(output.hidden_states)}
        found |= {f"{kind}.attentions.{index}": attention for index, attention in enumerate(output.attentions)}
        for reduction in ("none", "sum"):
            model.config.ctc_loss_reduction = reduction
            found[f"{kind}.loss.{reduction}"] = model(waveforms, attention_mask=attention_mask, labels=tf.constant(LABELS)).loss

        logits = tf.Variable(output.logits)
        counts = np.full(3, logits.shape[1]) if attention_mask is None else (mask.sum(-1) - 400) // 320 + 1
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(ctc_losses(logits, counts, model.config.pad_token_id))
        of_logits = tape.gradient(loss, logits)

        @tf.function(jit_compile=True)
        def gradients(attention_mask=attention_mask, of_logits=of_logits):
            with tf.GradientTape() as tape:
                logits = model(waveforms, attention_mask=attention_mask).logits
            return tape.gradient(logits, model.trainable_weights, of_logits, unconnected_gradients="zero")

        for weight, gradient in zip(model.trainable_weights, gradients()):
            found[f"{kind}.gradient.{weight.name.partition('/')[2].partition(':')[0]}"] = gradient
    return {key: np.asarray(value) for key, value in found.items()}


def ctc_losses(logits: tf.Variable, counts: np.ndarray, blank: int) -> tf.Tensor:
    """Return the loss of each row, as the model computes it. The model itself raises in a graph, whatever the labels."""
    return tf.nn.ctc_loss(
        logits=logits,
        labels=LABELS,
        logit_length=counts.astype(np.int32),
        label_length=(LABELS >= 0).sum(-1).astype(np.int32),
        blank_index=blank,
        logits_time_major=False,
    )


if __name__ == "__main__":
    main()

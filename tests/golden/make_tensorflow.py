"""Make the golden answers of transformers 4.34.1's TensorFlow classes: ``python tests/golden/make_tensorflow.py``.

Needs tensorflow 2.15, transformers==4.34.1, torch and numpy<2. The weights, inputs and masks are those of ``post_ln`` and
``pre_ln``, which make.py made. ``tensorflow`` gets, for each, the answers: states, attentions, logits, losses, and the gradient
of each weight by its name in TensorFlow. It also gets what ``save_pretrained`` writes for ``post_ln``: a ``tf_model.h5``, and
safetensors with TensorFlow's names.
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

        with tf.GradientTape() as tape:
            loss = model(waveforms, attention_mask=attention_mask, labels=tf.constant(LABELS)).loss
        gradients = tape.gradient(loss, model.trainable_weights, unconnected_gradients="zero")
        for weight, gradient in zip(model.trainable_weights, gradients):
            found[f"{kind}.gradient.{weight.name.partition('/')[2].partition(':')[0]}"] = gradient
    return {key: np.asarray(value) for key, value in found.items()}


if __name__ == "__main__":
    main()

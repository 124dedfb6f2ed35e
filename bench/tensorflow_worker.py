"""Time calls of a TensorFlow model on request: a process of tensorflow_peers.py.

It reads one JSON object per line and answers each with another: `{"mode": ..., "inputs": FILE.npz}` with the seconds of one
call. With `outputs` it also writes the logits to that file. Modes are `eager`, `graph` (tf.function) and `xla` (jit_compile).
"""

import argparse
import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def load(provider: str, folder: str):
    """Return a TensorFlow model, and the versions of what computes it."""
    import tensorflow as tf

    if provider == "ours":
        sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # hubert_fast, where it is not installed
        from hubert_fast.tensorflow import TFHubertForCTC

        return TFHubertForCTC.from_pretrained(folder), {"tensorflow": tf.__version__, "transformers": ""}
    if tf.__version__ >= "2.16":
        import tf_keras  # transformers 4 is written for Keras 2, which newer TensorFlow does not bring

        sys.modules["keras"] = tf_keras
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.TFHubertForCTC.from_pretrained(folder, from_pt=True)
    return model, {"tensorflow": tf.__version__, "transformers": transformers.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("provider", choices=["ours", "transformers"])
    parser.add_argument("folder", help="checkpoint")
    options = parser.parse_args()
    import numpy as np

    answers = os.fdopen(os.dup(1), "w")  # TensorFlow prints to standard output, too
    os.dup2(2, 1)
    model, versions = load(options.provider, options.folder)
    import tensorflow as tf

    def call(waveforms, mask):
        return model(waveforms, attention_mask=mask, training=False).logits

    modes = {"eager": call, "graph": tf.function(call), "xla": tf.function(call, jit_compile=True)}
    print(json.dumps(versions), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        arrays = np.load(request["inputs"])
        waveforms = tf.constant(arrays["waveforms"])
        mask = tf.constant(arrays["mask"]) if "mask" in arrays else None
        start = time.perf_counter()
        logits = modes[request["mode"]](waveforms, mask).numpy()
        seconds = time.perf_counter() - start
        if "outputs" in request:
            np.save(request["outputs"], logits)
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""Recognise weights in formats that cannot be loaded here, and say how to get a checkpoint that can.

`BY_NAME` goes by the end of a file's name, `BY_KIND` by the kind that `first_bytes.identify` finds in the file's contents.
"""

from __future__ import annotations

from pathlib import Path

from .first_bytes import Identity

SAFE_WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"
# In order of preference. An index lists the files over which the weights are split.
WEIGHT_FILES = (SAFE_WEIGHTS, SAFE_WEIGHTS + ".index.json", PICKLED_WEIGHTS, PICKLED_WEIGHTS + ".index.json")
FAIRSEQ_SUFFIXES = (".pt", ".pth", ".ckpt")
TRAINING_STATE = {"training_args.bin", "optimizer.bin", "scheduler.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
WITH_TENSORFLOW = "load them with a class of hubert_fast.tensorflow, then save_pretrained"
BY_NAME = (  # end of the file name, description, advice
    ("adapter_model.safetensors", "a PEFT adapter", "merge it into its base model (merge_and_unload), then save_pretrained"),
    ("adapter_model.bin", "a PEFT adapter", "merge it into its base model (merge_and_unload), then save_pretrained"),
    (".h5", "TensorFlow weights", WITH_TENSORFLOW),
    (".msgpack", "Flax weights", "load them with transformers 4 (from_flax=True), then save_pretrained"),
    (".onnx", "an ONNX model", "use the checkpoint that it was exported from"),
    (".gguf", "a GGUF file", "use the checkpoint that it was quantised from"),
    (".nemo", "a NeMo model", "name a HuBERT checkpoint"),
)  # fmt: skip
BY_KIND = {  # kind of `first_bytes.Identity` -> advice, where weights need other advice than audio and lists
    "zip": "unpack it",
    "tar": "unpack it",
    "hdf5": "if it holds TensorFlow weights, " + WITH_TENSORFLOW,
    "numpy": "write a dictionary of tensors with safetensors or torch.save",
    "onnx": "use the checkpoint that it was exported from",
    "gguf": "use the checkpoint that it was quantised from",
    "pickle": "write a dictionary of tensors with torch.save(model.state_dict(), FILE)",
    "json": "download the file with the weights instead",
    "text": "download the file with the weights instead",
}


def advise(identity: Identity) -> Identity:
    """Return `identity` with the advice for a file that was expected to hold weights."""
    return identity._replace(advice=BY_KIND.get(identity.kind, identity.advice))


def folder_hint(name_or_path: str | Path) -> str:
    """Return advice on a folder that lacks a configuration or weights, to append to the error message.

    The advice is empty if the names of the files suggest none, and if `name_or_path` is not a folder.
    """
    path = Path(name_or_path)
    try:
        names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
        subfolders = sorted(entry.name for entry in path.iterdir() if any((entry / name).is_file() for name in WEIGHT_FILES))
    except OSError:
        return ""
    for ending, description, advice in BY_NAME:
        if matching := [name for name in names if name.endswith(ending)]:
            return f"; it has {matching[0]}, {description}: {advice}"
    if subfolders:
        latest = max(subfolders, key=_step)
        return f"; its subfolder {path / latest} has weights: name that one"
    if matching := [name for name in names if name.endswith(FAIRSEQ_SUFFIXES) and not _is_training_state(name)]:
        command = f"hubert-fast convert {path / matching[0]} OUT_DIR"
        return f"; it has {matching[0]}: `{command}` converts a fairseq or s3prl checkpoint"
    if any(name in WEIGHT_FILES for name in names):
        return ""
    for ending, expected in ((".safetensors", SAFE_WEIGHTS), (".bin", PICKLED_WEIGHTS)):
        if matching := [name for name in names if name.endswith(ending) and not _is_training_state(name)]:
            return f"; it has {matching[0]}: if that file holds the weights, rename it to {expected}"
    return ""


def file_hint(path: Path) -> str:
    """Return advice on a file that was given in place of a folder, to append to the error message."""
    if path.name.endswith(FAIRSEQ_SUFFIXES):
        return f"; `hubert-fast convert {path} OUT_DIR` converts a fairseq or s3prl checkpoint to such a folder"
    for ending, description, advice in BY_NAME:
        if path.name.endswith(ending):
            return f"; this is {description}: {advice}"
    if path.name.endswith((".safetensors", ".bin")):
        return f"; name the folder that contains it, {path.parent}"
    return ""


def _is_training_state(name: str) -> bool:
    """Return whether a file holds the state of a training run rather than weights."""
    return name in TRAINING_STATE or name.startswith(("rng_state", "scaler"))


def _step(name: str) -> tuple[int, str]:
    """Return the step in the name of a Trainer's folder `checkpoint-STEP`, as a sort key."""
    step = name.rpartition("-")[2]
    return (int(step) if step.isdigit() else -1, name)

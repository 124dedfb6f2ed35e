"""Say what a folder or file holds that is not a checkpoint in Hugging Face's format, and what to do with it."""

from __future__ import annotations

from pathlib import Path

SAFE_WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"
# In the order in which they are looked for; an index lists the shards that the weights are spread over.
WEIGHT_FILES = (SAFE_WEIGHTS, SAFE_WEIGHTS + ".index.json", PICKLED_WEIGHTS, PICKLED_WEIGHTS + ".index.json")
FAIRSEQ_SUFFIXES = (".pt", ".pth", ".ckpt")
NOT_WEIGHTS = {"training_args.bin", "optimizer.bin", "scheduler.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
KINDS = (  # how a name ends, what that is, what to do
    ("adapter_model.safetensors", "a PEFT adapter", "merge it into its base model (merge_and_unload), then save_pretrained"),
    ("adapter_model.bin", "a PEFT adapter", "merge it into its base model (merge_and_unload), then save_pretrained"),
    (".h5", "TensorFlow's weights", "load them with transformers 4 (from_tf=True), then save_pretrained"),
    (".msgpack", "Flax's weights", "load them with transformers 4 (from_flax=True), then save_pretrained"),
    (".onnx", "an ONNX program", "use the checkpoint that it was exported from"),
    (".gguf", "a GGUF file", "use the checkpoint that it was quantised from"),
    (".nemo", "a NeMo model", "name a HuBERT checkpoint"),
)  # fmt: skip


def what_is_there(name_or_path: str | Path) -> str:
    """Return what to do with the files of a folder that has no configuration or no weights, to follow that message.

    Returns an empty text when nothing there tells, or when it is no folder.
    """
    path = Path(name_or_path)
    try:
        names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
        below = sorted(entry.name for entry in path.iterdir() if any((entry / name).is_file() for name in WEIGHT_FILES))
    except OSError:
        return ""
    for ending, what, advice in KINDS:
        if found := [name for name in names if name.endswith(ending)]:
            return f"; it has {found[0]}, {what}: {advice}"
    if below:
        latest = max(below, key=_step)
        return f"; the folder {path / latest} in it has weights: name that one"
    if found := [name for name in names if name.endswith(FAIRSEQ_SUFFIXES) and not _is_state(name)]:
        return f"; it has {found[0]}: `hubert-fast convert {path / found[0]} OUT_DIR` converts a fairseq or s3prl checkpoint"
    if any(name in WEIGHT_FILES for name in names):
        return ""
    for ending, wanted in ((".safetensors", SAFE_WEIGHTS), (".bin", PICKLED_WEIGHTS)):
        if found := [name for name in names if name.endswith(ending) and not _is_state(name)]:
            return f"; it has {found[0]}: if these are the weights, name the file {wanted}"
    return ""


def _is_state(name: str) -> bool:
    """Whether a file is the state of a training beside the weights."""
    return name in NOT_WEIGHTS or name.startswith(("rng_state", "scaler"))


def _step(name: str) -> tuple[int, str]:
    """Return the step of a Trainer's ``checkpoint-STEP``, to order such folders by."""
    step = name.rpartition("-")[2]
    return (int(step) if step.isdigit() else -1, name)


def how_to_use(path: Path) -> str:
    """Return what to do with a file that was named where a folder is needed, to follow that message."""
    if path.name.endswith(FAIRSEQ_SUFFIXES):
        return f"; `hubert-fast convert {path} OUT_DIR` makes one of a fairseq or s3prl checkpoint"
    for ending, what, advice in KINDS:
        if path.name.endswith(ending):
            return f"; this is {what}: {advice}"
    if path.name.endswith((".safetensors", ".bin")):
        return f"; name the folder that it is in, {path.parent}"
    return ""

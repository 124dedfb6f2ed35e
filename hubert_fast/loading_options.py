"""Sort the keywords of `from_pretrained` and `save_pretrained`: honoured, without effect here, or refused with a reason."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .config import HubertConfig
from .config_files import refuse_unknown
from .packed.untouched import ATTENTIONS

# Options of transformers that change how a model is loaded or computed, but not its output. Any value is accepted.
WITHOUT_EFFECT = {
    "_fast_init",
    "_from_auto",
    "_from_pipeline",
    "disable_mmap",
    "low_cpu_mem_usage",
    "mirror",
    "resume_download",
    "trust_remote_code",
    "use_kernels",
    "weights_only",
}
BY_CHANGED_IMPORT = "load it with `from hubert_fast.transformers import ...`, whose options are those of transformers"
CONVERT = "load the checkpoint with transformers 4 and save_pretrained, which writes weights that can be loaded here"
ONE_DEVICE = "the whole model goes to one device: name it as device_map"
# Options of which only the neutral value, None, False or empty, is accepted -> what to do instead.
REFUSED = {
    "adapter_kwargs": BY_CHANGED_IMPORT,
    "adapter_name": BY_CHANGED_IMPORT,
    "device_mesh": BY_CHANGED_IMPORT,
    "distributed_config": BY_CHANGED_IMPORT,
    "experts_implementation": "no HuBERT has experts",
    "from_flax": CONVERT,
    "from_tf": CONVERT,
    "fusion_config": BY_CHANGED_IMPORT,
    "generation_config": "no HuBERT generates",
    "gguf_file": BY_CHANGED_IMPORT,
    "key_mapping": "rename the weights, and pass them as state_dict",
    "load_in_4bit": BY_CHANGED_IMPORT,
    "load_in_8bit": BY_CHANGED_IMPORT,
    "max_memory": ONE_DEVICE,
    "offload_buffers": ONE_DEVICE,
    "offload_folder": ONE_DEVICE,
    "offload_state_dict": ONE_DEVICE,
    "proxies": "set the environment variables HTTPS_PROXY and HTTP_PROXY",
    "quantization_config": BY_CHANGED_IMPORT,
    "target_lang": "adapter files are not supported: " + BY_CHANGED_IMPORT,
    "tp_plan": BY_CHANGED_IMPORT,
}
ATTENTION_OPTIONS = {"attn_implementation", "use_flash_attention_2"}
REFUSED_ON_SAVING = {
    "distributed_checkpoint": "gather the weights and pass them as state_dict",
    "push_to_hub": "call huggingface_hub.upload_folder with the folder",
    "token": "it serves push_to_hub alone, which is refused: call huggingface_hub.upload_folder with the folder",
}
WITHOUT_EFFECT_ON_SAVING = {"save_original_format", "save_peft_format"}


def sort_loading_options(
    constructor: Callable, config: HubertConfig, options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the overrides of `config` and the keywords of `constructor` among `options`.

    Raises:
        TypeError: An option is unknown.
        ValueError: An option is known but has a value that is not supported. The message says what to do.
    """
    _refuse_values(options, REFUSED, "from_pretrained")
    attention = options.get("attn_implementation")
    if attention not in ATTENTIONS:
        names = ", ".join(repr(name) for name in ATTENTIONS)
        raise ValueError(f"attn_implementation has no effect here and must be one of {names}, but is {attention!r}")
    parameters = inspect.signature(constructor).parameters
    known = WITHOUT_EFFECT | ATTENTION_OPTIONS | set(REFUSED)
    rest = {name: value for name, value in options.items() if name not in known}
    overrides = {name: rest.pop(name) for name in list(rest) if config.has_option(name) and name not in parameters}
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    refuse_unknown({name for name in rest if not takes_any and name not in parameters})
    return overrides, rest


def check_saving_options(options: dict[str, Any]) -> None:
    """Raise `TypeError` for an unknown keyword of `save_pretrained`, and `ValueError` for a value that is not supported."""
    _refuse_values(options, REFUSED_ON_SAVING, "save_pretrained")
    if unknown := sorted(set(options) - set(REFUSED_ON_SAVING) - WITHOUT_EFFECT_ON_SAVING):
        raise TypeError(f"save_pretrained got {', '.join(unknown)}, which is not one of its options")


def _refuse_values(options: dict[str, Any], refused: dict[str, str], function: str) -> None:
    for name, advice in refused.items():
        value = options.get(name)
        if value is not None and value is not False and not (isinstance(value, (str, dict)) and not value):
            raise ValueError(f"{function}({name}={value!r}) is not supported: {advice}")

"""Define the base class of the models: loading, saving and initial weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .checkpoints import Source, load, warn_of_differences, write_checkpoint
from .config import HubertConfig, as_hubert_config
from .devices import resolve_device_map
from .initialization import INITIALIZED, draw_order, initialize_module, is_loading
from .loading_options import check_saving_options, sort_loading_options
from .model_methods import ModelMethods

if TYPE_CHECKING:
    from typing_extensions import Self


class HubertPreTrainedModel(ModelMethods):
    """Base class of the models, with the methods that transformers' models have.

    An own head is a subclass. Its constructor creates a `HubertModel` as `self.hubert`, then its own layers, and calls
    `self.post_init()` last. Its `forward` is its own; `from_pretrained` and `save_pretrained` work as for the other models.
    """

    config_class = HubertConfig
    base_model_prefix = "hubert"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: HubertConfig, *inputs: Any, **kwargs: Any):
        super().__init__()
        self.config = as_hubert_config(config)

    def post_init(self) -> None:
        """Initialise the weights. Every constructor calls this last."""
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise the weights that are neither loaded nor initialised yet, unless `from_pretrained` is loading them.

        Equal seeds give the weights of the installed transformers.
        """
        if not is_loading():
            self._initialize_below(self)

    def _initialize_below(self, module: nn.Module) -> None:
        """Initialise `module` and all below it, children first; a model within it initialises its own."""
        for child in module.children():
            owner = child if isinstance(child, HubertPreTrainedModel) else self
            owner._initialize_below(child)
        if not getattr(module, INITIALIZED, False):
            self._init_weights(module)
            setattr(module, INITIALIZED, True)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the weights of one module. Own heads may override this, as in transformers."""
        initialize_module(module, self.config.initializer_range, draw_order())

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None = None,
        *model_args: Any,
        config: HubertConfig | str | Path | None = None,
        state_dict: dict[str, Tensor] | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device: str | int | torch.device | None = None,
        device_map: str | int | torch.device | dict | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        subfolder: str | None = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        token: str | bool | None = None,
        local_files_only: bool = False,
        name_or_path: str | Path | None = None,
        **options: Any,
    ) -> Self:
        """Load a model, in evaluation mode, from a folder or a Hugging Face hub repository.

        Weights that the checkpoint lacks are initialised, and a warning names them.

        Args:
            pretrained_model_name_or_path: A folder, or a repository name such as `facebook/hubert-base-ls960`. `None` with
                both `config` and `state_dict`.
            model_args: Arguments of the constructor after the configuration, for own heads.
            config: A configuration to use instead of the checkpoint's `config.json`, or a folder or repository to read it from.
            state_dict: Weights to load instead of the checkpoint's. They are copied.
            dtype: The dtype of the parameters; float32 by default. `"auto"` keeps the checkpoint's.
            torch_dtype: The older name of `dtype`, which takes precedence.
            device: The device to put the model on; the CPU by default. `"auto"` is CUDA if there is a GPU.
            device_map: transformers' name for `device`.
            ignore_mismatched_sizes: Initialise weights whose shapes differ from the configuration's, instead of raising.
            output_loading_info: Return `(model, info)`. `info` is a dictionary with `missing_keys`, `unexpected_keys`,
                `mismatched_keys` (key, shape in the file, shape in the model) and `error_msgs` (always empty: errors
                raise).
            subfolder: A folder within the folder or repository that holds the files.
            variant: Read `model.VARIANT.safetensors` or `pytorch_model.VARIANT.bin`.
            use_safetensors: `True` reads safetensors only, `False` pickles only; by default safetensors come first.
            revision, cache_dir, force_download, token, local_files_only: As in `huggingface_hub`.
            name_or_path: Another name of `pretrained_model_name_or_path`.
            options: Fields of `HubertConfig` that replace those of `config`, and keywords of an own head's constructor.
                transformers' options `attn_implementation` (one of its own), `low_cpu_mem_usage`, `trust_remote_code`,
                `weights_only`, `resume_download`, `mirror`, `use_kernels` and `_fast_init` are accepted and have no effect.

        Raises:
            CheckpointError: A file is missing or unreadable.
            ValueError: Shapes differ and `ignore_mismatched_sizes` is not set, the dtype or device is not valid, or an option
                of transformers has a value that is not supported here, such as `load_in_8bit=True`.
            TypeError: A keyword is neither an option nor a field of `HubertConfig`.
        """
        if name_or_path is not None:
            if pretrained_model_name_or_path is not None:
                raise ValueError("name_or_path is another name of pretrained_model_name_or_path: give only one of them")
            pretrained_model_name_or_path = name_or_path
        if device is not None and device_map is not None:
            raise ValueError(f"from_pretrained takes device or device_map, but got both: {device!r} and {device_map!r}")
        if "use_auth_token" in options:
            token = options.pop("use_auth_token") if token is None else token
        target = resolve_device_map(device if device_map is None else device_map)
        hub_options: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
            "force_download": force_download,
            "subfolder": subfolder,
        }
        source = Source.of(pretrained_model_name_or_path, state_dict, variant, use_safetensors, hub_options)
        if config is None or isinstance(config, (str, Path)):
            named = pretrained_model_name_or_path if config is None else config
            if named is None:
                raise ValueError("from_pretrained without a name needs config=, a HubertConfig, beside state_dict=")
            config = HubertConfig.from_pretrained(named, **hub_options)
        config = as_hubert_config(config)
        overrides, keywords = sort_loading_options(cls, config, options)
        config = config.with_overrides(overrides) if overrides else config
        model, info = load(
            lambda: cls(config, *model_args, **keywords),
            source,
            torch_dtype if dtype is None else dtype,
            ignore_mismatched_sizes,
        )
        warn_of_differences(source.name, cls.__name__, info)
        model = model.to(device=target)
        if output_loading_info:
            return model, asdict(info) | {"error_msgs": []}  # type: ignore[return-value]
        return model

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        save_function: Callable[..., Any] | None = None,
        push_to_hub: bool = False,
        max_shard_size: str | int = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        **options: Any,
    ) -> None:
        """Write `config.json` and safetensors that transformers can read.

        Args:
            save_directory: The folder to write into, which is created if it does not exist.
            is_main_process: Whether to write at all. In distributed training, `False` in every process but one.
            state_dict: The weights to write instead of the model's, for example those that Accelerate gathered.
            save_function: No effect, as in transformers for safetensors.
            push_to_hub: Must be `False`: `huggingface_hub.upload_folder` uploads the folder.
            max_shard_size: The largest size of a weight file, in bytes or as in `"5GB"`. Larger models are split into several
                files.
            safe_serialization: Must be `True`: pickles can be read, but are not written.
            variant: Write `model.VARIANT.safetensors`.
            options: transformers' `save_peft_format` and `save_original_format`, which have no effect here.

        Raises:
            ValueError: `safe_serialization` is `False`, `push_to_hub` is set, or another option is not supported.
            TypeError: A keyword is not an option.
            NotADirectoryError: `save_directory` is a file.
        """
        check_saving_options(options | {"push_to_hub": push_to_hub})
        if not safe_serialization:
            raise ValueError("safe_serialization must be True: weights are written as safetensors, not as pickles")
        if not is_main_process:
            return
        folder = Path(save_directory)
        write_checkpoint(self, self.state_dict() if state_dict is None else state_dict, folder, max_shard_size, variant)

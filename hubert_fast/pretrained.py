"""Define the base class of the three models: loading, saving, initialisation, frame counts, freezing, checkpointing."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from .checkpoints import load, warn_of_differences, with_overrides, write_checkpoint
from .config import HubertConfig, as_hubert_config
from .devices import resolve_device_map
from .layers import CheckpointedLayer
from .outputs import ModelOutput

if TYPE_CHECKING:
    from typing_extensions import Self

    from .modeling import HubertModel


Output = TypeVar("Output", bound=ModelOutput)


class HubertPreTrainedModel(nn.Module):
    """Base class of the models, with the methods that transformers' models have."""

    config_class = HubertConfig
    base_model_prefix = "hubert"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.config = as_hubert_config(config)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        config: HubertConfig | str | Path | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device: str | int | torch.device | None = None,
        device_map: str | int | torch.device | dict | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **config_overrides: Any,
    ) -> Self:
        """Load a model, in evaluation mode, from a folder or a Hugging Face hub repository.

        Weights that the checkpoint lacks are initialised, and a warning names them.

        Args:
            name_or_path: A folder, or a repository name such as `facebook/hubert-base-ls960`.
            config: A configuration to use instead of the checkpoint's `config.json`, or a folder or repository to read it from.
            dtype: The dtype of the parameters; float32 by default. `"auto"` keeps the checkpoint's.
            torch_dtype: The older name of `dtype`, which takes precedence.
            device: The device to put the model on; the CPU by default. `"auto"` is CUDA if there is a GPU.
            device_map: transformers' name for `device`.
            ignore_mismatched_sizes: Initialise weights whose shapes differ from the configuration's, instead of raising.
            output_loading_info: Return `(model, info)`. `info` is a dictionary with `missing_keys`, `unexpected_keys`,
                `mismatched_keys` (key, shape in the file, shape in the model) and `error_msgs` (always empty: errors
                raise).
            revision, cache_dir, token, local_files_only: As in `huggingface_hub`.
            config_overrides: Fields of `HubertConfig` that replace those of `config`. The options `attn_implementation`,
                `low_cpu_mem_usage`, `trust_remote_code` and `use_safetensors` of transformers are accepted and have no effect.

        Raises:
            CheckpointError: A file is missing or unreadable.
            ValueError: Shapes differ and `ignore_mismatched_sizes` is not set, or the dtype or device is not valid.
            TypeError: A keyword is neither an option nor a field of `HubertConfig`.
        """
        hub_options = {
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
        }
        if device is not None and device_map is not None:
            raise ValueError(f"from_pretrained takes device or device_map, but got both: {device!r} and {device_map!r}")
        target = resolve_device_map(device if device_map is None else device_map)
        if config is None or isinstance(config, (str, Path)):
            config = HubertConfig.from_pretrained(name_or_path if config is None else config, **hub_options)
        config = with_overrides(as_hubert_config(config), config_overrides)
        model, info = load(
            cls, name_or_path, config, torch_dtype if dtype is None else dtype, ignore_mismatched_sizes, hub_options
        )
        warn_of_differences(name_or_path, cls.__name__, info)
        model = model.to(device=target)
        if output_loading_info:
            return model, asdict(info) | {"error_msgs": []}  # type: ignore[return-value]
        return model

    def save_pretrained(
        self, folder: str | Path, *, max_shard_size: str | int = "5GB", safe_serialization: bool = True
    ) -> None:
        """Write `config.json` and safetensors that transformers can read.

        Args:
            folder: The folder to write into, which is created if it does not exist.
            max_shard_size: The largest size of a weight file, in bytes or as in `"5GB"`. Larger models are split into several
                files.
            safe_serialization: Must be `True`: pickles can be read, but are not written.

        Raises:
            ValueError: `safe_serialization` is `False`.
            NotADirectoryError: `folder` is a file.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization must be True: weights are written as safetensors, not as pickles")
        folder = Path(folder)
        if folder.is_file():
            raise NotADirectoryError(f"save_pretrained needs a folder, but {folder} is a file")
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(self, self.state_dict(), folder, max_shard_size)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def base_model(self) -> HubertModel:
        """The encoder without the head."""
        return getattr(self, self.base_model_prefix, self)  # type: ignore[arg-type]

    def explain_path(
        self,
        input_values: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool | None = None,
    ) -> str:
        """Return which graph would serve a call with these arguments: `"packed"`, or `"definition: "` and the reason.

        The logger `hubert_fast.packed` reports the same for every call at level DEBUG. Other arguments of a call make no
        difference. `forward_packed` also leaves a model with a forward hook to the definition, since it would bypass the hook.

        Args:
            input_values: The waveforms of the call. Needed only if they require a gradient or are on another device than the
                model.
            mask_time_indices: As in `HubertModel.forward`.
            output_attentions: As in `HubertModel.forward`.
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        waveforms = torch.empty(0, device=self.device) if input_values is None else input_values
        reason = self.base_model.why_not_packed(waveforms, mask_time_indices, output_attentions)
        return "packed" if reason is None else f"definition: {reason}"

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of parameters. `exclude_embeddings` has no effect, since speech models have no embedding table."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad or not only_trainable)

    def freeze_feature_encoder(self) -> None:
        """Exclude the convolutional feature encoder from training."""
        self.base_model.feature_extractor.requires_grad_(False)

    def freeze_feature_extractor(self) -> None:
        """Call `freeze_feature_encoder`. This older name is deprecated in transformers 4 and removed in 5."""
        self.freeze_feature_encoder()

    def freeze_base_model(self) -> None:
        """Exclude everything but the head from training."""
        self.base_model.requires_grad_(False)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, every_n_layers: int = 1, offload: bool = False
    ) -> None:
        """Keep only the inputs of convolutions and Transformer layers in training, and recompute the rest in the backward pass.

        Args:
            gradient_checkpointing_kwargs: Keyword arguments for `torch.utils.checkpoint.checkpoint`; `use_reentrant` is `False`
                by default.
            every_n_layers, offload: Options of transformers 5.20 and newer, of which only the defaults are supported.

        Raises:
            ValueError: `every_n_layers` is not 1, or `offload` is set.
        """
        if every_n_layers != 1 or offload:
            raise ValueError(f"every_n_layers must be 1 and offload False, but they are {every_n_layers} and {offload}")
        options = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        for layer in self._checkpointed_layers():
            layer.checkpointing = options

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations in training."""
        for layer in self._checkpointed_layers():
            layer.checkpointing = None

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, every_n_layers: int = 1, offload: bool = False
    ) -> None:
        """Call `gradient_checkpointing_enable`, which transformers 5.23 calls by this name."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)

    def activation_checkpointing_disable(self) -> None:
        """Call `gradient_checkpointing_disable`, which transformers 5.23 calls by this name."""
        self.gradient_checkpointing_disable()

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradient checkpointing is enabled."""
        return any(layer.checkpointing is not None for layer in self._checkpointed_layers())

    def _checkpointed_layers(self) -> list[CheckpointedLayer]:
        return [module for module in self.modules() if isinstance(module, CheckpointedLayer)]

    def frame_counts(self, sample_counts: Tensor) -> Tensor:
        """Return the frame count for each sample count: integers of any shape; 0 below the receptive field (400 samples)."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride):
            sample_counts = torch.div(sample_counts - kernel, stride, rounding_mode="floor") + 1
        return sample_counts.clamp(min=0)

    def frame_mask(self, attention_mask: Tensor, frames: int) -> Tensor:
        """Reduce a sample mask `[B, S]` to a frame mask, bool `[B, frames]`. Only the row sums of the mask matter."""
        counts = self.frame_counts(attention_mask.sum(-1, dtype=torch.long))
        return torch.arange(frames, device=counts.device) < counts[:, None]

    def _returned(self, output: Output, return_dict: bool | None) -> Output | tuple:
        """Return `output` as it is, or as a tuple if `return_dict` is false; `None` means the configuration's setting."""
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if not return_dict:
            return output.to_tuple()
        if torch.jit.is_tracing():  # tracing supports only built-in containers
            return dict(output)  # type: ignore[return-value]
        return output


@torch.no_grad()
def initialize(module: nn.Module, config: HubertConfig) -> None:
    """Initialise a module and everything below it in place, as transformers does.

    Linear weights are normal with standard deviation `initializer_range`, convolution weights Kaiming-normal, biases 0, norms 1
    and 0, and the SpecAugment mask embedding uniform in [0, 1). A weight-normed convolution gets PyTorch's default weight:
    transformers initialises the computed weight, which weight norm overwrites, so that has no effect there.
    """
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, std=config.initializer_range)
            nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Conv1d):
            if is_parametrized(child):  # this assignment sets magnitude and direction
                child.weight = nn.init.kaiming_uniform_(child.weight.clone(), a=math.sqrt(5))
            else:
                nn.init.kaiming_normal_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
    if hasattr(module, "masked_spec_embed"):
        nn.init.uniform_(module.masked_spec_embed)  # type: ignore[arg-type]

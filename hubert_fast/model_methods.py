"""Define what the models have in common besides weights: device and dtype, frame counts, freezing, checkpointing, refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from .config import HubertConfig
from .layers import CheckpointedLayer

if TYPE_CHECKING:
    from .modeling import HubertModel


class ModelMethods(nn.Module):
    """The methods of transformers' models that neither load nor save nor draw weights."""

    base_model_prefix = "hubert"
    config: HubertConfig

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def framework(self) -> str:
        """The name of PyTorch in transformers, `"pt"`."""
        return "pt"

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

    @classmethod
    def can_generate(cls) -> bool:
        """Return `False`: no HuBERT generates text token by token."""
        return False

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of parameters.

        Args:
            only_trainable: Whether to count only those that require a gradient.
            exclude_embeddings: Whether to leave out the weights of `nn.Embedding` layers, which only an own head can have.
        """
        embeddings = {id(module.weight) for module in self.modules() if exclude_embeddings and isinstance(module, nn.Embedding)}
        counted = (parameter for parameter in self.parameters() if parameter.requires_grad or not only_trainable)
        return sum(parameter.numel() for parameter in counted if id(parameter) not in embeddings)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Return the bytes of the parameters and, unless `return_buffers` is false, of the buffers."""
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.nbytes for tensor in tensors)

    def get_input_embeddings(self) -> NoReturn:
        """Raise `NotImplementedError`, as transformers' Hubert does: waveforms have no embedding table."""
        raise NotImplementedError(f"{type(self).__name__} has no input embeddings: it reads waveforms, not tokens")

    def set_input_embeddings(self, value: nn.Module) -> NoReturn:
        """Raise `NotImplementedError`, as transformers' Hubert does: waveforms have no embedding table."""
        self.get_input_embeddings()

    def get_output_embeddings(self) -> None:
        """Return `None`, as transformers' Hubert does: `lm_head` is not tied to an embedding table."""

    def resize_token_embeddings(self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None) -> NoReturn:
        """Raise `NotImplementedError`, as transformers' Hubert does. The message says how to get another vocabulary."""
        raise NotImplementedError(
            f"{type(self).__name__} has no embeddings to resize: for an output layer of another size, write "
            f"from_pretrained(..., vocab_size=N, ignore_mismatched_sizes=True)"
        )

    def tie_weights(self) -> None:
        """Do nothing: no weights of a HuBERT are tied."""

    def push_to_hub(self, *arguments: Any, **options: Any) -> NoReturn:
        """Raise `NotImplementedError`. The message says how to upload a model."""
        raise NotImplementedError(
            "push_to_hub is not supported: call save_pretrained(FOLDER), then "
            "huggingface_hub.upload_folder(repo_id=NAME, folder_path=FOLDER)"
        )

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
        # one division in place of one for each layer, with equal results: floor(floor(a / b) / c) = floor(a / (b c))
        hop = self.config.inputs_to_logits_ratio
        return (torch.div(sample_counts - self.config.receptive_field, hop, rounding_mode="floor") + 1).clamp(min=0)

    def frame_mask(self, attention_mask: Tensor, frames: int) -> Tensor:
        """Reduce a sample mask `[B, S]` to a frame mask, bool `[B, frames]`. Only the row sums of the mask matter."""
        counts = self.frame_counts(attention_mask.sum(-1, dtype=torch.long))
        return torch.arange(frames, device=counts.device) < counts[:, None]

    def _get_feat_extract_output_lengths(self, input_lengths: Tensor | int) -> Tensor:
        """Call `frame_counts`, which published code calls by this private name of transformers.

        Args:
            input_lengths: Sample counts, an integer tensor of any shape or a number.
        """
        return self.frame_counts(torch.as_tensor(input_lengths))

    def _get_feature_vector_attention_mask(self, feature_vector_length: int, attention_mask: Tensor) -> Tensor:
        """Call `frame_mask`, which published code calls by this private name of transformers.

        Args:
            feature_vector_length: The number of frames, T.
            attention_mask: `[B, S]`, 1 for samples and 0 for padding.
        """
        return self.frame_mask(attention_mask, feature_vector_length)

"""What the three models share: configuration, frame counts, freezing, gradient checkpointing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import PreTrainedMixin
from .config import HubertConfig, as_hubert_config
from .layers import CheckpointedLayer
from .outputs import ModelOutput


class HubertPreTrainedModel(PreTrainedMixin, nn.Module):
    """Base of the three models: configuration, initialisation, and (from the mixin) loading and saving."""

    config_class = HubertConfig
    base_model_prefix = "hubert"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.config = as_hubert_config(config)

    @property
    def dtype(self) -> torch.dtype:
        """That of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """That of the parameters."""
        return next(self.parameters()).device

    @property
    def base_model(self) -> nn.Module:
        """The encoder without the head."""
        return getattr(self, self.base_model_prefix, self)

    def explain_path(
        self,
        input_values: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool | None = None,
    ) -> str:
        """Say which graph a call like this would take, and why: ``"packed"``, or ``"definition: "`` and the reason.

        input_values: needed only when it requires a gradient or is on another device than the model. Other arguments of a call
        make no difference. The logger ``hubert_fast.hubert_model`` says so at level DEBUG whenever the definition is taken.
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        waveforms = torch.empty(0, device=self.device) if input_values is None else input_values
        reason = self.base_model.why_not_packed(waveforms, mask_time_indices, output_attentions)
        return "packed" if reason is None else f"definition: {reason}"

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Count the parameters. ``exclude_embeddings`` is transformers' and changes nothing: speech has no embedding table."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad or not only_trainable)

    def freeze_feature_encoder(self) -> None:
        """Exclude the convolutional feature encoder from training."""
        self.base_model.feature_extractor.requires_grad_(False)

    def freeze_feature_extractor(self) -> None:
        """Do :meth:`freeze_feature_encoder`, by the name that transformers 4 deprecated and 5 dropped."""
        self.freeze_feature_encoder()

    def freeze_base_model(self) -> None:
        """Exclude everything but the head from training."""
        self.base_model.requires_grad_(False)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, every_n_layers: int = 1, offload: bool = False
    ) -> None:
        """Keep only the inputs of convolutions and Transformer layers in training, and compute the rest again.

        gradient_checkpointing_kwargs: of ``torch.utils.checkpoint.checkpoint``; not reentrant unless they say so.

        Raises ``ValueError`` for ``every_n_layers`` above 1 and ``offload``, which transformers' Trainer passes from 5.20 on.
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
        """Do :meth:`gradient_checkpointing_enable`, by the name transformers 5.23 has for it."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)

    def activation_checkpointing_disable(self) -> None:
        """Do :meth:`gradient_checkpointing_disable`, by the name transformers 5 has for it."""
        self.gradient_checkpointing_disable()

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether :meth:`gradient_checkpointing_enable` is in force."""
        return any(layer.checkpointing is not None for layer in self._checkpointed_layers())

    def _checkpointed_layers(self) -> list[CheckpointedLayer]:
        return [module for module in self.modules() if isinstance(module, CheckpointedLayer)]

    def frame_counts(self, sample_counts: Tensor) -> Tensor:
        """Return how many frames that many samples give: integers of any shape; 0 below the receptive field (400)."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride):
            sample_counts = torch.div(sample_counts - kernel, stride, rounding_mode="floor") + 1
        return sample_counts.clamp(min=0)

    def frame_mask(self, attention_mask: Tensor, frames: int) -> Tensor:
        """Reduce a sample mask ``[B, S]`` to a frame mask, bool ``[B, frames]``. Only the mask's row sums count."""
        counts = self.frame_counts(attention_mask.sum(-1, dtype=torch.long))
        return torch.arange(frames, device=counts.device) < counts[:, None]

    def _check_labels(self, labels: Tensor, batch: int) -> None:
        """Raise ``ValueError`` for labels that no head takes; each head adds what its own must be."""
        if not isinstance(labels, Tensor):
            raise ValueError(f"labels must be a tensor, but are a {type(labels).__name__}")
        if batch == 0:
            raise ValueError("labels need at least one row of input_values, but the batch is empty")

    def _as_asked(self, output: ModelOutput, return_dict: bool | None) -> ModelOutput | tuple:
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if not return_dict:
            return output.to_tuple()
        return dict(output) if torch.jit.is_tracing() else output  # tracing takes no class of ours

"""The encoder: HubertModel, whose forward is the definition, or the packed graph where that may stand in for it."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from .config import HubertConfig
from .grid import Grid
from .initialization import initialize
from .layers import Encoder, FeatureEncoder, FeatureProjection
from .outputs import BaseModelOutput, PackedModelOutput, keep_counts
from .packed_audio import PackedAudio
from .paths import FastPath, encode_packed, encode_padded
from .pretrained import HubertPreTrainedModel
from .spec_augment import sample_mask

logger = logging.getLogger(__name__)


class HubertModel(HubertPreTrainedModel):
    """The encoder without a head: waveforms to one vector per 20 ms."""

    def __init__(self, config: HubertConfig):
        super().__init__(config)
        config = self.config
        self.feature_extractor = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
            self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.encoder = Encoder(config)
        self.fast_path = FastPath()
        initialize(self)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple:
        """Encode waveforms.

        input_values: float ``[B, S]``, 16 kHz, normalised as the checkpoint's preprocessor says.
        attention_mask: ``[B, S]``, 1 for samples and 0 for the padding after them. A row with fewer samples than the
            receptive field (400) has no frames and never disturbs its neighbours; nor does a row with NaN, which yields NaN.
        mask_time_indices: bool ``[B, T]``, frames to replace by the mask embedding. Sampled in training when left out.

        For inference the packed graph does this (:mod:`hubert_fast.packed`), and frames of padding come out as zeros;
        :meth:`explain_path` says when not. Then the definition does, and what it gives for padding means nothing.

        Raises ``ValueError`` when the shapes do not fit or the waveform is too short for a single frame.
        """
        self.check_inputs(input_values, attention_mask)
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        reason = self.why_not_packed(input_values, mask_time_indices, output_attentions)
        if reason is None:
            last, states = encode_padded(self, input_values, attention_mask, output_hidden_states)
            return self._as_asked(BaseModelOutput(last_hidden_state=last, hidden_states=states), return_dict)
        features = self.feature_extractor(input_values).transpose(1, 2)
        frame_mask = None if attention_mask is None else self.frame_mask(attention_mask, features.shape[1])
        x = self.feature_projection(features)
        x = self._mask_features(x, mask_time_indices)
        output = self.encoder(x, frame_mask, output_attentions, output_hidden_states)
        return self._as_asked(output, return_dict)

    def forward_packed(self, audio: PackedAudio, output_hidden_states: bool | None = None) -> PackedModelOutput:
        """Encode utterances of any lengths, none of them padded: each comes out as it would alone.

        audio: on any device; it is moved to the model's, from pinned memory without waiting for what is queued there. An
            utterance below the receptive field (400 samples) has no frames.

        Where the packed graph may not run (:meth:`explain_path`) the definition takes the utterances one by one.

        Raises ``TypeError`` for anything but :class:`PackedAudio`, ``ValueError`` when its hop is not the model's.
        """
        self._check_packed(audio)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        audio = audio.to(self.device, non_blocking=True)
        grid = Grid.of(audio.lengths, self.config)
        if self.why_not_packed(audio.samples, whole_call=False) is None:
            last, states = encode_packed(self, audio, grid, output_hidden_states)
        else:
            last, states = self._one_by_one(audio, output_hidden_states)
        output = PackedModelOutput(last_hidden_state=last, hidden_states=states, cu_seqlens=grid.cu_seqlens(last.device))
        return keep_counts(output, grid.counts)

    def _one_by_one(self, audio: PackedAudio, output_hidden_states: bool) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        empty = torch.empty(0, self.config.hidden_size, dtype=self.dtype, device=self.device)
        lasts, states = [empty], [(empty,) * (self.config.num_hidden_layers + 1)]
        for waveform in audio.waveforms():
            if len(waveform) >= self.config.receptive_field:
                output = self(waveform[None].to(self.dtype), output_hidden_states=output_hidden_states, return_dict=True)
                lasts.append(output["last_hidden_state"][0])
                states.append(tuple(state[0] for state in output.get("hidden_states", ())))
        # the empty ones lend their dtype only to a batch without a frame
        first = 1 if len(lasts) > 1 else 0
        last = torch.cat(lasts[first:])
        return last, tuple(torch.cat(parts) for parts in zip(*states[first:])) if output_hidden_states else None

    def _check_packed(self, audio: PackedAudio) -> None:
        if not isinstance(audio, PackedAudio):
            kind = type(audio).__name__
            raise TypeError(f"forward_packed takes PackedAudio, but got a {kind}: PackedAudio.from_waveforms makes it")
        hop = self.config.inputs_to_logits_ratio
        if audio.hop_samples != hop:
            raise ValueError(f"audio must be packed with hop_samples={hop} for this model, but has {audio.hop_samples}")

    def why_not_packed(
        self,
        waveforms: Tensor,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool = False,
        whole_call: bool = True,
    ) -> str | None:
        """Say why the definition would serve a call, ``None`` when the packed graph would; log it.

        whole_call: whether it is one of the module, around which its hooks run, or of :meth:`forward_packed`.
        """
        if output_attentions:
            reason = "attentions are asked for"
        elif mask_time_indices is not None:
            reason = "mask_time_indices are given"
        else:
            reason = self.fast_path.why_not(self, HubertModel, waveforms, whole_call)
        if reason is not None and not torch.compiler.is_compiling():
            logger.debug("definition: %s", reason)
        return reason

    def check_inputs(self, input_values: Tensor, attention_mask: Tensor | None) -> None:
        """Raise ``ValueError`` for what :meth:`forward` does not take."""
        if not isinstance(input_values, Tensor):
            raise ValueError(f"input_values must be a tensor, but is a {type(input_values).__name__}")
        if input_values.dim() != 2:
            raise ValueError(f"input_values must be [batch, samples], but has shape {list(input_values.shape)}")
        if not input_values.is_floating_point():
            raise ValueError(f"input_values must be floating point, but is {input_values.dtype}: use a processor first")
        if input_values.shape[1] < self.config.receptive_field:
            raise ValueError(
                f"input_values needs at least {self.config.receptive_field} samples for one frame, "
                f"but has shape {list(input_values.shape)}"
            )
        weights = self.feature_extractor.conv_layers[0].conv.weight
        if input_values.dtype != weights.dtype and not torch.is_autocast_enabled(input_values.device.type):
            raise ValueError(f"input_values must be {weights.dtype} as the weights are, but is {input_values.dtype}")
        if attention_mask is None:
            return
        if not isinstance(attention_mask, Tensor):
            raise ValueError(f"attention_mask must be a tensor, but is a {type(attention_mask).__name__}")
        if attention_mask.shape != input_values.shape:
            raise ValueError(
                f"attention_mask must have the shape of input_values, {list(input_values.shape)}, "
                f"but has {list(attention_mask.shape)}"
            )

    def _mask_features(self, x: Tensor, mask_time_indices: Tensor | None) -> Tensor:
        """SpecAugment (Park et al. 2019) on projected frames: spans of time, then spans of channels."""
        config = self.config
        if not config.apply_spec_augment:
            return x
        batch, frames, channels = x.shape
        if mask_time_indices is not None:
            self._check_time_indices(mask_time_indices, (batch, frames))
        if mask_time_indices is None and self.training and config.mask_time_prob > 0:
            mask_time_indices = sample_mask(
                (batch, frames), config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
            ).to(x.device)
        if mask_time_indices is not None:
            x = torch.where(mask_time_indices.bool()[..., None], self.masked_spec_embed.to(x.dtype), x)
        if self.training and config.mask_feature_prob > 0:
            mask = sample_mask(
                (batch, channels), config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks
            ).to(x.device)
            x = x.masked_fill(mask[:, None], 0)
        return x

    def _check_time_indices(self, mask_time_indices: Tensor, shape: tuple[int, int]) -> None:
        if mask_time_indices.shape != shape:
            raise ValueError(
                f"mask_time_indices must be [batch, frames], here {list(shape)}, but has {list(mask_time_indices.shape)}"
            )
        if not hasattr(self, "masked_spec_embed"):
            raise ValueError(
                "mask_time_indices needs the mask embedding, which a model has when mask_time_prob or mask_feature_prob "
                "is above 0 in its configuration, but both are 0"
            )

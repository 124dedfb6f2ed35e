"""HuBERT, the definition: what the model *is*, in plain PyTorch.

Hsu et al. 2021, "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units"
(https://arxiv.org/abs/2106.07447), with the parameter names and the arithmetic of ``transformers.models.hubert``.

    waveform [B, S] -> FeatureEncoder [B, C_conv, T] -> FeatureProjection [B, T, C] -> Encoder [B, T, C] -> head

Two architectures share these modules. ``do_stable_layer_norm=False`` with ``feat_extract_norm="group"`` (base) normalises
after each residual add; ``do_stable_layer_norm=True`` with ``feat_extract_norm="layer"`` (large, xlarge) before each
block and once at the end. Axes: B batch, S samples, T frames, C channels, H heads, D head dim, V vocabulary.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import HubertConfig
from .initialization import initialize
from .layers import Encoder, FeatureEncoder, FeatureProjection
from .outputs import (
    BaseModelOutput,
    CausalLMOutput,
    PackedCausalLMOutput,
    PackedModelOutput,
    PackedSequenceClassifierOutput,
    SequenceClassifierOutput,
)
from .packed_audio import Grid, PackedAudio
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
        reason = self._why_not_packed(input_values, mask_time_indices, output_attentions)
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

        audio: on any device; it is moved to the model's. An utterance below the receptive field (400 samples) has no frames.

        Where the packed graph may not run (:meth:`explain_path`) the definition takes the utterances one by one.

        Raises ``TypeError`` for anything but :class:`PackedAudio`, ``ValueError`` when its hop is not the model's.
        """
        self._check_packed(audio)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        audio = audio.to(self.device)
        if self._why_not_packed(audio.samples, None, False) is None:
            last, states = encode_packed(self, audio, output_hidden_states)
        else:
            last, states = self._one_by_one(audio, output_hidden_states)
        grid = Grid.of(audio.lengths, self.config)
        return PackedModelOutput(last_hidden_state=last, hidden_states=states, cu_seqlens=grid.cu_seqlens(last.device))

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

    def _why_not_packed(
        self, waveforms: Tensor, mask_time_indices: Tensor | None = None, output_attentions: bool = False
    ) -> str | None:
        if output_attentions:
            reason = "attentions are asked for"
        elif mask_time_indices is not None:
            reason = "mask_time_indices are given"
        else:
            reason = self.fast_path.why_not(self, HubertModel, waveforms)
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


class HubertForCTC(HubertPreTrainedModel):
    """HuBERT with a linear layer over the vocabulary, for connectionist temporal classification."""

    def __init__(self, config: HubertConfig):
        super().__init__(config)
        config = self.config
        self.hubert = HubertModel(config)
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        initialize(self.lm_head, config)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
    ) -> CausalLMOutput | tuple:
        """Return logits ``[B, T, V]`` and, with labels, the CTC loss (Graves et al. 2006).

        labels: int ``[B, L]``, negative values are padding. The blank is ``config.pad_token_id``. Without
        an ``attention_mask`` every frame counts. Other arguments as in :meth:`HubertModel.forward`. In inference the logits of
        padding are zeros, with a trace more for the blank, so that the best token of padding is none.

        Raises ``ValueError`` when a label is not in the vocabulary.
        """
        if labels is not None:
            self._check_labels(labels, len(input_values))
        encoded = self.hubert(
            input_values,
            attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(self.dropout(encoded["last_hidden_state"]))
        if attention_mask is not None and not (self.training or logits.requires_grad):
            logits = self._silenced(logits, self.frame_mask(attention_mask, logits.shape[1]))
        loss = None
        if labels is not None:
            mask = torch.ones_like(input_values, dtype=torch.long) if attention_mask is None else attention_mask
            loss = self._ctc_loss(logits, self.frame_counts(mask.sum(-1, dtype=torch.long)), labels)
        output = CausalLMOutput(
            loss=loss, logits=logits, hidden_states=encoded.get("hidden_states"), attentions=encoded.get("attentions")
        )
        return self._as_asked(output, return_dict)

    def _silenced(self, logits: Tensor, frame_mask: Tensor) -> Tensor:
        """Make zeros of the logits of padding, and the blank's the smallest above: else arg-max might read a letter in it."""
        silence = logits.new_zeros(logits.shape[-1])
        blank = self.config.pad_token_id
        if blank is not None and 0 <= blank < len(silence):
            silence[blank] = torch.finfo(logits.dtype).tiny
        return torch.where(frame_mask[..., None], logits, silence)

    def forward_packed(self, audio: PackedAudio, output_hidden_states: bool | None = None) -> PackedCausalLMOutput:
        """Return logits ``[N, V]`` for utterances of any lengths, none padded. See :meth:`HubertModel.forward_packed`."""
        encoded = self.hubert.forward_packed(audio, output_hidden_states)
        return PackedCausalLMOutput(
            logits=self.lm_head(self.dropout(encoded.last_hidden_state)),
            hidden_states=encoded.hidden_states,
            cu_seqlens=encoded.cu_seqlens,
        )

    def _check_labels(self, labels: Tensor, batch: int) -> None:
        super()._check_labels(labels, batch)
        if labels.dim() != 2 or len(labels) != batch or (labels.is_floating_point() and (labels != labels.floor()).any()):
            raise ValueError(
                f"labels must be whole numbers [batch, length], with {batch} rows here, "
                f"but are {labels.dtype} {list(labels.shape)}"
            )
        if labels.numel() and labels.max() >= self.config.vocab_size:
            raise ValueError(f"labels must be below vocab_size ({self.config.vocab_size}), but reach {int(labels.max())}")
        blank = self.config.pad_token_id
        if blank is None or not 0 <= blank < self.config.vocab_size:
            raise ValueError(
                f"pad_token_id is CTC's blank and must be an output, 0 to {self.config.vocab_size - 1}, but is {blank}"
            )

    def _ctc_loss(self, logits: Tensor, frame_counts: Tensor, labels: Tensor) -> Tensor:
        is_label = labels >= 0
        # cuDNN's CTC takes only blank 0 and short labels, so it is kept out
        with torch.backends.cudnn.flags(enabled=False):
            return F.ctc_loss(
                logits.log_softmax(dim=-1, dtype=torch.float32).transpose(0, 1),
                labels[is_label].long(),
                frame_counts,
                is_label.sum(-1),
                blank=self.config.pad_token_id,
                reduction=self.config.ctc_loss_reduction,
                zero_infinity=self.config.ctc_zero_infinity,
            )


class HubertForSequenceClassification(HubertPreTrainedModel):
    """HuBERT with a classifier over the mean of the projected frames (SUPERB's recipe)."""

    def __init__(self, config: HubertConfig):
        super().__init__(config)
        config = self.config
        self.hubert = HubertModel(config)
        if config.use_weighted_layer_sum:
            states = config.num_hidden_layers + 1
            self.layer_weights = nn.Parameter(torch.full((states,), 1 / states))
        self.projector = nn.Linear(config.hidden_size, config.classifier_proj_size)
        self.classifier = nn.Linear(config.classifier_proj_size, config.num_labels)
        initialize(self.projector, config)
        initialize(self.classifier, config)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """Return logits ``[B, num_labels]`` and, with labels ``[B]``, the loss.

        labels: classes, int, of which -100 is ignored, for the mean cross entropy; with ``num_labels == 1`` numbers, for the
            mean squared error.

        Frames are averaged, only the real ones with an ``attention_mask``. Other arguments as in :meth:`HubertModel.forward`.

        Raises ``ValueError`` when the labels do not fit the batch or the classes.
        """
        if labels is not None:
            self._check_labels(labels, len(input_values))
        weighted = self.config.use_weighted_layer_sum
        encoded = self.hubert(
            input_values,
            attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=True if weighted else output_hidden_states,
            return_dict=True,
        )
        x = self._weighted_sum(encoded["hidden_states"]) if weighted else encoded["last_hidden_state"]
        x = self.projector(x)
        if attention_mask is None:
            pooled = x.mean(dim=1)
        else:
            frame_mask = self.frame_mask(attention_mask, x.shape[1])
            pooled = x.masked_fill(~frame_mask[..., None], 0).sum(dim=1)
            pooled = pooled / frame_mask.sum(-1, keepdim=True).clamp(min=1)
        logits = self.classifier(pooled)
        output = SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=encoded.get("hidden_states"),
            attentions=encoded.get("attentions"),
        )
        return self._as_asked(output, return_dict)

    def forward_packed(self, audio: PackedAudio, output_hidden_states: bool | None = None) -> PackedSequenceClassifierOutput:
        """Return logits ``[B, num_labels]`` for utterances of any lengths, none padded. See :meth:`HubertModel.forward_packed`.

        An utterance without a frame is classified as the mean of none, zeros.
        """
        weighted = self.config.use_weighted_layer_sum
        encoded = self.hubert.forward_packed(audio, True if weighted else output_hidden_states)
        x = self._weighted_sum(encoded.hidden_states) if weighted else encoded.last_hidden_state
        x = self.projector(x)
        pooled = [part.sum(dim=0) / max(len(part), 1) for part in x.split(encoded.cu_seqlens.diff().tolist())]
        logits = self.classifier(torch.stack(pooled) if pooled else x)
        return PackedSequenceClassifierOutput(
            logits=logits, hidden_states=encoded.hidden_states, cu_seqlens=encoded.cu_seqlens
        )

    def _weighted_sum(self, states: tuple[Tensor, ...]) -> Tensor:
        """Sum the layers' states ``[..., C]`` by the softmax of the learnt weights (SUPERB)."""
        return torch.tensordot(self.layer_weights.softmax(dim=0), torch.stack(states), dims=1)

    def _check_labels(self, labels: Tensor, batch: int) -> None:
        super()._check_labels(labels, batch)
        if labels.numel() != batch:
            raise ValueError(f"labels must be one per row of the batch of {batch}, but have shape {list(labels.shape)}")
        classes = self.config.num_labels
        if classes == 1:
            return
        if labels.is_floating_point():
            raise ValueError(f"labels must be whole numbers to choose among {classes} classes, but are {labels.dtype}")
        known = ((labels >= 0) & (labels < classes)) | (labels == -100)
        if not known.all():
            raise ValueError(
                f"labels must be below num_labels ({classes}) and not negative, but one is {int(labels[~known][0])}"
            )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.num_labels == 1:
            return F.mse_loss(logits.flatten(), labels.flatten().to(logits.dtype))
        return F.cross_entropy(logits, labels.flatten().long())

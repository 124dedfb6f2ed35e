"""HuBERT, the definition: what the model *is*, in plain PyTorch.

Hsu et al. 2021, "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units"
(https://arxiv.org/abs/2106.07447), with the parameter names and the arithmetic of ``transformers.models.hubert``.

    waveform [B, S] -> FeatureEncoder [B, C_conv, T] -> FeatureProjection [B, T, C] -> Encoder [B, T, C] -> head

Two architectures share these modules. ``do_stable_layer_norm=False`` with ``feat_extract_norm="group"`` (base) normalises
after each residual add; ``do_stable_layer_norm=True`` with ``feat_extract_norm="layer"`` (large, xlarge) before each
block and once at the end. Axes: B batch, S samples, T frames, C channels, H heads, D head dim, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import HubertConfig
from .hubert_model import HubertModel
from .initialization import initialize
from .ops import ctc_argmax
from .outputs import (
    CausalLMOutput,
    PackedCausalLMOutput,
    PackedSequenceClassifierOutput,
    PackedTokenOutput,
    SequenceClassifierOutput,
    counts_of,
    keep_counts,
)
from .packed_audio import PackedAudio
from .pretrained import HubertPreTrainedModel
from .untouched import has_hook

__all__ = ["HubertForCTC", "HubertForSequenceClassification", "HubertModel"]


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
        padding are zeros, but 1 for a blank that is not the first token, so that the best token of padding is the blank.

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
        """Make zeros of the logits of padding, and a one of the blank's unless it is the first: else arg-max reads letters."""
        silence = logits.new_zeros(logits.shape[-1])
        blank = self.config.pad_token_id
        if blank is not None and 0 < blank < len(silence):  # of equal ones arg-max takes the first
            silence[blank] = 1
        return torch.where(frame_mask[..., None], logits, silence)

    def forward_packed(self, audio: PackedAudio, output_hidden_states: bool | None = None) -> PackedCausalLMOutput:
        """Return logits ``[N, V]`` for utterances of any lengths, none padded. See :meth:`HubertModel.forward_packed`."""
        encoded = self.hubert.forward_packed(audio, output_hidden_states)
        output = PackedCausalLMOutput(
            logits=self.lm_head(self.dropout(encoded.last_hidden_state)),
            hidden_states=encoded.hidden_states,
            cu_seqlens=encoded.cu_seqlens,
        )
        return keep_counts(output, counts_of(encoded))

    def argmax_packed(self, audio: PackedAudio) -> PackedTokenOutput:
        """Return the best token of each frame and its log-probability, int32 and float32 ``[N]``: what greedy decoding takes.

        No logits are written where the output layer is a plain linear one and no gradient is recorded; the
        ids are those of :meth:`forward_packed`, up to what rounding logits to half precision makes equal.
        """
        encoded = self.hubert.forward_packed(audio)
        head, x = self.lm_head, encoded.last_hidden_state
        recorded = torch.is_grad_enabled() and (x.requires_grad or any(weight.requires_grad for weight in head.parameters()))
        if type(head) is nn.Linear and not has_hook(head) and not self.training and not recorded:
            ids, log_probs = ctc_argmax(
                x.to(head.weight.dtype), head.weight.detach(), None if head.bias is None else head.bias.detach()
            )
        else:
            logits = head(self.dropout(x))
            log_probs, ids = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1).max(-1)
        output = PackedTokenOutput(ids=ids.int(), log_probs=log_probs.float(), cu_seqlens=encoded.cu_seqlens)
        return keep_counts(output, counts_of(encoded))

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
        counts = counts_of(encoded)
        pooled = [part.sum(dim=0) / max(len(part), 1) for part in x.split(list(counts))]
        output = PackedSequenceClassifierOutput(
            logits=self.classifier(torch.stack(pooled) if pooled else x),
            hidden_states=encoded.hidden_states,
            cu_seqlens=encoded.cu_seqlens,
        )
        return keep_counts(output, counts)

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

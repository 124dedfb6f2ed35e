"""Define HuBERT: the model in plain PyTorch.

    waveform [B, S] -> FeatureEncoder [B, C_conv, T] -> FeatureProjection [B, T, C] -> Encoder [B, T, C] -> head

The three parts are in layers.py. `HubertModel.forward` composes them; for inference it lets the packed graph compute the same
result several times faster (`hubert_fast.packed`). Parameter names and arithmetic are those of `transformers.models.hubert`.

Two architectures share these modules. With `do_stable_layer_norm=False` and `feat_extract_norm="group"` (base) the encoder
normalises after each residual add; with `do_stable_layer_norm=True` and `feat_extract_norm="layer"` (large, xlarge) before
each block and once at the end.

Source: Hsu et al. 2021, "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units"
(https://arxiv.org/abs/2106.07447). Axes: B batch, S samples, T frames, N packed frames, C channels, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import HubertConfig
from .ctc.padding import blank_padding
from .hidden_states import StateSelection
from .initialization import draw_order, encoder_construction
from .input_checks import (
    check_class_labels,
    check_ctc_labels,
    check_inputs,
    check_packed,
    named_keywords_only,
    refuse_keywords,
)
from .layers import Encoder, FeatureEncoder, FeatureProjection
from .ops import ctc_argmax
from .outputs import (
    BaseModelOutput,
    CausalLMOutput,
    PackedCausalLMOutput,
    PackedModelOutput,
    PackedSequenceClassifierOutput,
    PackedTokenOutput,
    SequenceClassifierOutput,
    counts_of,
    keep_counts,
    returned,
)
from .packed import FastPath, Grid, PackedAudio, has_hook, run_packed, run_padded
from .pretrained import HubertPreTrainedModel
from .spec_augment import spec_augment

__all__ = ["HubertForCTC", "HubertForSequenceClassification", "HubertModel"]

logger = logging.getLogger("hubert_fast.packed")


class HubertModel(HubertPreTrainedModel):
    """The encoder without a head: from waveforms to one vector per 20 ms."""

    feature_extractor: FeatureEncoder
    feature_projection: FeatureProjection
    masked_spec_embed: nn.Parameter
    encoder: Encoder
    fast_path: FastPath

    def __init__(self, config: HubertConfig):
        super().__init__(config)
        config = self.config
        with encoder_construction(draw_order()):
            self.feature_extractor = FeatureEncoder(config)
            self.feature_projection = FeatureProjection(config)
            if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
                self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size).uniform_())
            self.encoder = Encoder(config)
        self.fast_path = FastPath()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and hasattr(self, "masked_spec_embed") and draw_order().draws_embedding_twice:
            nn.init.uniform_(self.masked_spec_embed)

    @named_keywords_only
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        layers: Sequence[int] | None = None,
        final_norm: bool | None = None,
        **unknown: Any,
    ) -> BaseModelOutput | tuple:
        """Encode waveforms.

        For inference the packed graph computes the result, and padded frames are zeros. Otherwise (see `explain_path`) the
        definition below computes it, and padded frames hold meaningless values.

        Args:
            input_values: float `[B, S]` at 16 kHz, normalised as the checkpoint's `preprocessor_config.json` specifies.
            attention_mask: `[B, S]`, 1 for samples and 0 for the padding after them. A row with fewer samples than the
                receptive field (400) has no frames. A row with NaN yields NaN. Neither affects other rows.
            mask_time_indices: bool `[B, T]`, frames to replace by the mask embedding. In training they are sampled by
                default.
            output_attentions: Whether to return the attention probabilities of each layer, `[B, H, T, T]`.
            output_hidden_states: Whether to return the input of the first layer and the output of each, `[B, T, C]`.
            return_dict: Whether to return an output object instead of a tuple. This and the two arguments above are `None` for
                the configuration's setting.
            layers: Return only the hidden states after these layers, in this order, and compute no layer above the highest of
                them: `[6, 9]` returns what `hidden_states[6]` and `hidden_states[9]` would be. 0 is the input of the first
                layer, -1 the last layer. There is then no `last_hidden_state`.
            final_norm: With `layers`, whether states are returned after the final norm of a pre-LN model. `None` does as
                transformers 4.34.1 does: only the state of the last layer is.

        Raises:
            ValueError: A shape or dtype is wrong, the waveforms are too short for a single frame, or there is no such layer.
            TypeError: An argument is unknown, or `layers` are not whole numbers.
        """
        if unknown:
            refuse_keywords(self, unknown)
        check_inputs(self, input_values, attention_mask)
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None and layers is None:
            output_hidden_states = config.output_hidden_states
        if self.why_not_packed(input_values, mask_time_indices, output_attentions) is None:
            selection = self.encoder.select(output_hidden_states, layers, final_norm)
            last, states = run_padded(self, input_values, attention_mask, selection)
            return returned(BaseModelOutput(last_hidden_state=last, hidden_states=states), self, return_dict)
        features = self.feature_extractor(input_values).transpose(1, 2)
        frame_mask = None if attention_mask is None else self.frame_mask(attention_mask, features.shape[1])
        x = self.feature_projection(features)
        if config.apply_spec_augment and (self.training or mask_time_indices is not None):
            x = spec_augment(self, x, mask_time_indices)
        options: dict[str, Any] = {"output_hidden_states": output_hidden_states}
        if layers is not None or final_norm is not None:  # unknown to an encoder of another class
            options |= {"layers": layers, "final_norm": final_norm}
        output = self.encoder(x, frame_mask, output_attentions, **options)
        return returned(output, self, return_dict)

    def forward_packed(
        self,
        audio: PackedAudio,
        output_hidden_states: bool | None = None,
        layers: Sequence[int] | None = None,
        final_norm: bool | None = None,
    ) -> PackedModelOutput:
        """Encode utterances of any lengths without padding. Each utterance gets the result it would get alone.

        Where the packed graph cannot be used (see `explain_path`), the definition encodes the utterances one by one.

        Args:
            audio: The utterances, on any device. They are copied to the model's device, asynchronously from pinned memory. An
                utterance shorter than the receptive field (400 samples) has no frames.
            output_hidden_states: Whether to return the input of the first layer and the output of each, `[N, C]`; `None` for
                the configuration's setting.
            layers: Return only the hidden states after these layers, `[N, C]`, and compute no layer above the highest of them:
                see `forward`.
            final_norm: See `forward`.

        Returns:
            The last hidden state `[N, C]`, and `cu_seqlens`, int32 `[B + 1]`, the boundaries between utterances. With `layers`,
            `hidden_states` takes the place of the last hidden state.

        Raises:
            TypeError: `audio` is not a `PackedAudio`, or `layers` are not whole numbers.
            ValueError: The `hop_samples` of `audio` differ from the model's hop, or there is no such layer.
        """
        check_packed(audio, self.config)
        selection = self.encoder.select(output_hidden_states, layers, final_norm)
        audio = audio.to(self.device, non_blocking=True)
        grid = Grid.of(audio.lengths, self.config)
        if self.why_not_packed(audio.samples, whole_call=False) is None:
            last, states = run_packed(self, audio, grid, selection)
        else:
            options = {"output_hidden_states": output_hidden_states, "layers": layers, "final_norm": final_norm}
            last, states = self._encode_one_by_one(audio, selection, options)
        output = PackedModelOutput(last_hidden_state=last, hidden_states=states, cu_seqlens=grid.cu_seqlens(self.device))
        return keep_counts(output, grid.counts)

    def _encode_one_by_one(
        self, audio: PackedAudio, selection: StateSelection, options: dict[str, Any]
    ) -> tuple[Tensor | None, tuple[Tensor, ...] | None]:
        options = {name: value for name, value in options.items() if value is not None}  # a subclass may not know them all
        outputs = [
            self(waveform[None].to(self.dtype), return_dict=True, **options)
            for waveform in audio.waveforms()
            if len(waveform) >= self.config.receptive_field
        ]

        def joined(parts: list[Tensor]) -> Tensor:
            return torch.cat(parts) if parts else torch.empty(0, self.config.hidden_size, dtype=self.dtype, device=self.device)

        last = joined([output["last_hidden_state"][0] for output in outputs]) if selection.with_last else None
        indices = range(len(selection.states))
        return last, tuple(joined([output["hidden_states"][index][0] for output in outputs]) for index in indices) or None

    def why_not_packed(
        self,
        waveforms: Tensor,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool = False,
        whole_call: bool = True,
    ) -> str | None:
        """Return why the definition would serve a call, and log it; return `None` when the packed graph would.

        Args:
            waveforms: The input of the call.
            mask_time_indices: As in `forward`.
            output_attentions: As in `forward`.
            whole_call: `True` for a call of the module, around which its hooks run; `False` for `forward_packed`, which
                would bypass them.
        """
        reason: str | None
        if output_attentions:
            reason = "attentions are requested"
        elif mask_time_indices is not None:
            reason = "mask_time_indices are given"
        else:
            reason = self.fast_path.why_not(self, HubertModel, waveforms, whole_call)
        if reason is not None and not torch.compiler.is_compiling():
            logger.debug("definition: %s", reason)
        return reason


class HubertForCTC(HubertPreTrainedModel):
    """HuBERT with a linear layer over the vocabulary, for connectionist temporal classification."""

    def __init__(self, config: HubertConfig):
        super().__init__(config)
        config = self.config
        self.hubert = HubertModel(config)
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @named_keywords_only
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
        **unknown: Any,
    ) -> CausalLMOutput | tuple:
        """Return logits `[B, T, V]` and, with labels, the CTC loss (Graves et al. 2006).

        With a mask and no gradient, the logits of padded frames are 100 for the blank (`config.pad_token_id`) and -100 for the
        other tokens, so that greedy and beam search write nothing there; zeros if `pad_token_id` is not in the vocabulary.

        Args:
            input_values, attention_mask, output_attentions, output_hidden_states, return_dict: See `HubertModel.forward`.
            labels: int `[B, L]`; negative values are padding. The blank is `config.pad_token_id`. Without an
                `attention_mask`, all frames count.

        Raises:
            ValueError: A label is not in the vocabulary, or an input has the wrong shape or dtype.
            TypeError: An argument is unknown.
        """
        if unknown:
            refuse_keywords(self, unknown)
        if labels is not None:
            check_ctc_labels(labels, len(input_values), self.config)
        encoded = self.hubert(
            input_values,
            attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(self.dropout(encoded["last_hidden_state"]))
        batch, frames, _ = logits.shape
        if attention_mask is None:
            counts = torch.full((batch,), frames, dtype=torch.long, device=logits.device)
        else:
            counts = self.frame_counts(attention_mask.sum(-1, dtype=torch.long)).clamp(max=frames)
            if not self.training and (torch.jit.is_tracing() or not logits.requires_grad):
                logits = blank_padding(logits, counts, self.config.pad_token_id)
        loss = None if labels is None else self._ctc_loss(logits, counts, labels)
        output = CausalLMOutput(
            loss=loss, logits=logits, hidden_states=encoded.get("hidden_states"), attentions=encoded.get("attentions")
        )
        if not torch.compiler.is_compiling():
            output.keep_frame_counts(counts)
        return returned(output, self, return_dict)

    def forward_packed(self, audio: PackedAudio, output_hidden_states: bool | None = None) -> PackedCausalLMOutput:
        """Return logits `[N, V]` for utterances of any lengths without padding. See `HubertModel.forward_packed`."""
        encoded = self.hubert.forward_packed(audio, output_hidden_states)
        output = PackedCausalLMOutput(
            logits=self.lm_head(self.dropout(encoded.last_hidden_state)),
            hidden_states=encoded.hidden_states,
            cu_seqlens=encoded.cu_seqlens,
        )
        return keep_counts(output, counts_of(encoded))

    def argmax_packed(self, audio: PackedAudio) -> PackedTokenOutput:
        """Return the best token of each frame and its log-probability, the input of greedy decoding: int32 and float32 `[N]`.

        No logits are stored if the output layer is an `nn.Linear` and no gradient is recorded. The ids are the argmax of
        `forward_packed`, except where rounding to half precision makes several logits equal.
        """
        encoded = self.hubert.forward_packed(audio)
        head, x = self.lm_head, encoded.last_hidden_state
        records = torch.is_grad_enabled() and (x.requires_grad or any(weight.requires_grad for weight in head.parameters()))
        if type(head) is nn.Linear and not has_hook(head) and not self.training and not records:
            ids, log_probs = ctc_argmax(
                x.to(head.weight.dtype), head.weight.detach(), None if head.bias is None else head.bias.detach()
            )
        else:
            logits = head(self.dropout(x))
            log_probs, ids = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1).max(-1)
        output = PackedTokenOutput(ids=ids.int(), log_probs=log_probs.float(), cu_seqlens=encoded.cu_seqlens)
        return keep_counts(output, counts_of(encoded))

    def _ctc_loss(self, logits: Tensor, frame_counts: Tensor, labels: Tensor) -> Tensor:
        is_label = labels >= 0
        # cuDNN's CTC supports only blank 0 and short labels, so it is turned off
        with torch.backends.cudnn.flags(enabled=False):
            return F.ctc_loss(
                logits.log_softmax(dim=-1, dtype=torch.float32).transpose(0, 1),
                labels[is_label].long(),
                frame_counts,
                is_label.sum(-1),
                blank=self.config.pad_token_id,  # type: ignore[arg-type]  # checked by check_ctc_labels
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
        self.post_init()

    @named_keywords_only
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
        **unknown: Any,
    ) -> SequenceClassifierOutput | tuple:
        """Return logits `[B, num_labels]` and, with labels, the loss.

        Frames are averaged; with an `attention_mask`, only those that are not padding.

        Args:
            input_values, attention_mask, output_attentions, output_hidden_states, return_dict: See `HubertModel.forward`.
            labels: `[B]`. Class indices for the mean cross entropy (-100 is ignored), or numbers for the mean squared error
                if `num_labels == 1`.

        Raises:
            ValueError: The labels do not fit the batch or the classes, or an input has the wrong shape or dtype.
            TypeError: An argument is unknown.
        """
        if unknown:
            refuse_keywords(self, unknown)
        if labels is not None:
            check_class_labels(labels, len(input_values), self.config)
        weighted = self.config.use_weighted_layer_sum
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        encoded = self.hubert(
            input_values,
            attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=weighted or wants_states,
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
            hidden_states=encoded.get("hidden_states") if wants_states else None,
            attentions=encoded.get("attentions"),
        )
        return returned(output, self, return_dict)

    def forward_packed(self, audio: PackedAudio, output_hidden_states: bool | None = None) -> PackedSequenceClassifierOutput:
        """Return logits `[B, num_labels]` for utterances of any lengths without padding. See `HubertModel.forward_packed`.

        For an utterance without frames, the classifier gets zeros in place of the mean.
        """
        weighted = self.config.use_weighted_layer_sum
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        encoded = self.hubert.forward_packed(audio, weighted or wants_states)
        x = self._weighted_sum(encoded.hidden_states) if weighted else encoded.last_hidden_state
        x = self.projector(x)
        counts = counts_of(encoded)
        pooled = [part.sum(dim=0) / max(len(part), 1) for part in x.split(list(counts))]
        output = PackedSequenceClassifierOutput(
            logits=self.classifier(torch.stack(pooled) if pooled else x),
            hidden_states=encoded.hidden_states if wants_states else None,
            cu_seqlens=encoded.cu_seqlens,
        )
        return keep_counts(output, counts)

    def _weighted_sum(self, states: tuple[Tensor, ...] | None) -> Tensor:
        """Sum the layers' states `[..., C]`, weighted by the softmax of the learnt weights (SUPERB)."""
        assert states is not None  # forward requested them
        return torch.tensordot(self.layer_weights.softmax(dim=0), torch.stack(states), dims=1)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.num_labels == 1:
            return F.mse_loss(logits.flatten(), labels.flatten().to(logits.dtype))
        return F.cross_entropy(logits, labels.flatten().long())

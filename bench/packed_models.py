"""What ``packed_cpu.py`` measures: models with the sizes of published ones, recorded speech, and the ways to run them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

import torch
import transformers

import hubert_fast
from hubert_fast import PackedAudio, audio, demo

LARGE = dict(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    do_stable_layer_norm=True,
    feat_extract_norm="layer",
    conv_bias=True,
)
TINY = dict(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=96,
    conv_dim=(32,) * 7,
    num_conv_pos_embedding_groups=2,
)
MODELS = {"base": {}, "large": LARGE, "tiny": TINY, "tiny large": {**LARGE, **TINY}}

CASES = {  # seconds of each utterance
    "mixed": (1.9, 3.1, 4.4, 6.2, 8.0, 11.3, 14.1, 16.5),
    "eight of 10 s": (10.0,) * 8,
    "one of 5 s": (5.0,),
    "tiny": (0.3, 0.5),
}
OURS, OURS_PADDED = "hubert_fast, packed", "hubert_fast, drop-in"
THEIRS, THEIRS_COMPILED = "transformers, sdpa", "transformers, sdpa, torch.compile"
PROVIDERS = (OURS, OURS_PADDED, THEIRS, THEIRS_COMPILED)


def speech(seconds: tuple[float, ...]) -> list[torch.Tensor]:
    """Utterances of the bundled recordings, one after the other and over again, each normalised, ``[S_i]`` at 16 kHz."""
    recordings = torch.cat([torch.from_numpy(audio.load(recording.path)) for recording in demo.recordings()])
    utterances, start = [], 0
    for length in (int(16000 * one) for one in seconds):
        repeated = recordings.repeat(-(-(start + length) // len(recordings)))
        utterance = repeated[start : start + length]
        utterances.append((utterance - utterance.mean()) / utterance.std())
        start = (start + length) % len(recordings)
    return utterances


def pair(
    name: str, dtype: torch.dtype, layers: int | None = None
) -> tuple[transformers.HubertForCTC, hubert_fast.HubertForCTC]:
    """The same random weights, in the same memory, in transformers' class and in ours. ``layers``: fewer than the model has."""
    torch.manual_seed(0)
    gc.collect()
    values = MODELS[name] | ({} if layers is None else {"num_hidden_layers": layers})
    theirs = transformers.HubertForCTC(transformers.HubertConfig(**values, attn_implementation="sdpa")).eval().to(dtype)
    with torch.device("meta"):
        ours = hubert_fast.HubertForCTC(hubert_fast.HubertConfig(**values)).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    return theirs, ours


def padded(utterances: list[torch.Tensor], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``input_values`` ``[B, S]`` and the mask, ``None`` when no row needs one, as the processor gives them."""
    lengths = torch.tensor([len(utterance) for utterance in utterances])
    rows = torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True).to(dtype)
    if lengths.min() == lengths.max():
        return rows, None
    return rows, (torch.arange(rows.shape[1]) < lengths[:, None]).long()


def one_by_one(model: torch.nn.Module, utterances: list[torch.Tensor]) -> torch.Tensor:
    """What a model gives for each utterance alone, ``[N, V]``: padding changes the statistics of a group norm."""
    return torch.cat([model(utterance[None].to(model.dtype)).logits[0] for utterance in utterances])


def runs(
    theirs: transformers.HubertForCTC, ours: hubert_fast.HubertForCTC, utterances: list[torch.Tensor]
) -> dict[str, Callable[[], torch.Tensor]]:
    """Return, for each provider, the call that is timed: from waveforms in memory to logits."""
    dtype = theirs.dtype
    rows, mask = padded(utterances, dtype)
    packed = PackedAudio.from_waveforms(utterances)

    def call(model: torch.nn.Module) -> torch.Tensor:
        return model(rows, attention_mask=mask).logits

    return {
        OURS: lambda: ours.forward_packed(packed).logits,
        OURS_PADDED: partial(call, ours),
        THEIRS: partial(call, theirs),
        THEIRS_COMPILED: partial(call, torch.compile(theirs)),
    }


def true_frames(provider: str, logits: torch.Tensor, utterances: list[torch.Tensor]) -> torch.Tensor:
    """Return ``[N, V]``, whatever the provider gave for padding."""
    if provider == OURS:
        return logits
    counts = torch.tensor([(len(utterance) - 400) // 320 + 1 for utterance in utterances])
    return logits[torch.arange(logits.shape[1]) < counts[:, None]]

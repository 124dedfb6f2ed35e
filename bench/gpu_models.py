"""Whole models, packed, against transformers on padded rows."""

from __future__ import annotations

import copy
from typing import Any

import torch
from gpu_cases import frame_mask
from gpu_run import (
    LEFT_OUT,
    NAMES,
    SAME,
    Run,
    Table,
    difference,
    percentiles_ms,
    wall_ms,
)
from torch import Tensor

import hubert_fast

LARGE = dict(
    hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, do_stable_layer_norm=True,
    feat_extract_norm="layer", conv_bias=True,
)  # fmt: skip
TINY = dict(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96, conv_dim=(32,) * 7,
    num_conv_pos_embedding_groups=2, vocab_size=32,
)  # fmt: skip


def models(run: Run) -> None:
    columns = "model dtype case provider audio_seconds p20_ms p50_ms p80_ms rtfx peak_bytes max_error status"
    table = Table(run.out / "models.csv", columns)
    if run.tiny:
        plan, audio_seconds = [("tiny", TINY, torch.float32)], {"librispeech": [0.1, 0.2], "one": [0.2]}
    else:
        configs = {"large": LARGE, "base": {}}
        plan = [(name, configs[name], dtype) for dtype in (torch.bfloat16, torch.float16) for name in configs]
        audio_seconds = {"librispeech": [frames / 50 for frames in run.utterance_frames(15_000)], "one": [5.0]}
    for name, config, dtype in plan:
        rows = [{"model": name, "dtype": NAMES[dtype], "case": case} for case in audio_seconds]
        if all(Table.key(row) in table.known for row in rows):
            continue
        if not run.time_left():
            for row in rows:
                table.add(**row, status=LEFT_OUT)
            continue
        with table.reasons(**rows[0]), torch.inference_mode():
            ours, theirs, errors = pair(config, dtype, run.device)
            for row in rows:
                if Table.key(row) not in table.known:
                    time_model(run, table, row, ours, theirs, errors, audio_seconds[row["case"]])


def noise(seconds: list[float], device: torch.device) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(round(16000 * one), device=device) for one in seconds]


def pair(config: dict, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any, dict[str, float]]:
    """Make one model in our class and in transformers'; return also how far each is from transformers in float32."""
    import transformers  # imports triton: after --tiny was seen

    torch.manual_seed(0)
    with torch.device(device):
        theirs = transformers.HubertForCTC(transformers.HubertConfig(**config, attn_implementation="sdpa")).eval().to(dtype)
    with torch.device("meta"):
        ours = hubert_fast.HubertForCTC(hubert_fast.HubertConfig(**config)).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    utterances = noise([0.1, 0.15] if device.type == "cpu" else [3.1, 7.7], device)
    exact = one_by_one(copy.deepcopy(theirs).float(), utterances)
    packed = ours.forward_packed(hubert_fast.PackedAudio.from_waveforms(utterances)).logits
    errors = {"ours": difference(packed, exact), "transformers, sdpa": difference(one_by_one(theirs, utterances), exact)}
    return ours, theirs, errors


def one_by_one(model: Any, utterances: list[Tensor]) -> Tensor:
    return torch.cat([model(utterance[None].to(model.dtype)).logits[0] for utterance in utterances])


def time_model(
    run: Run, table: Table, row: dict, ours: Any, theirs: Any, errors: dict[str, float], seconds: list[float]
) -> None:
    utterances = noise(seconds, run.device)
    packed = hubert_fast.PackedAudio.from_waveforms(utterances).to(run.device)
    rows = torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True).to(theirs.dtype)
    mask = frame_mask([len(utterance) for utterance in utterances], run.device).long() if len(utterances) > 1 else None
    calls = {
        "ours": lambda: ours.forward_packed(packed).logits,
        "transformers, sdpa": lambda: theirs(rows, attention_mask=mask).logits,
    }
    for name, call in calls.items():
        named = {**row, "provider": name, "audio_seconds": float(sum(seconds)), "max_error": errors[name]}
        with table.reasons(**named):
            if not errors[name] <= SAME[theirs.dtype]:
                table.add(**named, status="not timed: answers otherwise than transformers in float32")
                continue
            peak_bytes = ""
            repeats = 1
            if not run.tiny:
                first_ms = max(wall_ms(call, run.device) for _ in range(3))
                repeats = int(min(max(5000 / first_ms, 3), 30))
                torch.cuda.reset_peak_memory_stats()
            times = percentiles_ms([wall_ms(call, run.device) for _ in range(repeats)])
            if not run.tiny:
                peak_bytes = torch.cuda.max_memory_allocated()
            table.add(**named, **times, rtfx=1e3 * sum(seconds) / times["p50_ms"], peak_bytes=peak_bytes, status="ok")

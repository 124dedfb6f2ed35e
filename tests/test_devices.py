"""What ``dtype="auto"`` chooses: the format that a device multiplies fast."""

import pytest
import torch

from hubert_fast.devices import resolve_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (set(), torch.float32),
        ({"amx_tile"}, torch.bfloat16),
        ({"avx512_bf16"}, torch.bfloat16),
        ({"avx512", "avx2", "vnni"}, torch.float32),  # widened and narrowed one by one there
    ],
    ids=str,
)
def test_auto_on_a_cpu(monkeypatch, features, expected):
    for feature in ("amx_tile", "avx512_bf16", "avx512", "avx2", "vnni"):
        monkeypatch.setattr(torch.cpu, f"_is_{feature}_supported", lambda feature=feature: feature in features, raising=False)
    assert resolve_dtype("auto", CPU) == expected
    assert resolve_dtype("float16", CPU) == torch.float16  # what is asked for is given


def test_auto_on_a_cpu_of_an_older_torch(monkeypatch):
    for name in [name for name in vars(torch.cpu) if name.startswith("_is_")]:
        monkeypatch.delattr(torch.cpu, name)
    assert resolve_dtype("auto", CPU) == torch.float32

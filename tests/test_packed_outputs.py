"""Check that outputs of packed calls unpack without waiting for the device, unless their cu_seqlens were replaced."""

import copy
import io
import pickle

import pytest
import torch
from conftest import PRE_LN
from torch.utils import _pytree as pytree

from hubert_fast import HubertConfig, HubertForCTC, HubertForSequenceClassification, HubertModel, PackedAudio
from hubert_fast.packed import Grid

LENGTHS = (1000, 0, 399, 2000, 400)
COUNTS = [2, 0, 0, 6, 1]
CALLS = {
    "encoder": (HubertModel, "forward_packed"),
    "logits": (HubertForCTC, "forward_packed"),
    "tokens": (HubertForCTC, "argmax_packed"),
    "classes": (HubertForSequenceClassification, "forward_packed"),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


class OnDevice(torch.Tensor):
    """A stand-in for a tensor on a device: every operation on it raises."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        raise AssertionError(f"{function} waits for the device")


def output_of(call, **options):
    """Return the output of a small model, with hidden states."""
    cls, method = call
    model = cls(HubertConfig(**PRE_LN, num_labels=5, output_hidden_states=True, **options)).eval()
    audio = PackedAudio.from_waveforms([torch.randn(length) for length in LENGTHS])
    with torch.no_grad():
        return getattr(model, method)(audio)


def names_of(output):
    """Return the names of the fields that have a part for each utterance."""
    return [name for name in output if name != "cu_seqlens"]


def sizes_of(output, name):
    """Return the number of unpacked frames of each utterance; all layers of hidden states must agree."""
    parts = [part if isinstance(part, tuple) else (part,) for part in output.unpack(name)]
    assert all(len({len(state) for state in part}) == 1 for part in parts)
    return [len(part[0]) for part in parts]


def assert_unpacks(output, counts=COUNTS):
    for name in names_of(output):
        is_of_classes = name == "logits" and type(output).__name__.startswith("PackedSequence")
        assert sizes_of(output, name) == ([5] * len(LENGTHS) if is_of_classes else counts), name


@calls
def test_unpacking_does_not_wait_for_the_device(call, monkeypatch):
    """This also holds while gradients are recorded, when utterances run one by one."""
    on_host = Grid.cu_seqlens
    monkeypatch.setattr(Grid, "cu_seqlens", lambda grid, device: on_host(grid, device).as_subclass(OnDevice))
    output = output_of(call)
    with pytest.raises(AssertionError, match="waits for the device"):
        output.cu_seqlens.tolist()
    assert_unpacks(output)
    cls, method = call
    model = cls(HubertConfig(**PRE_LN, num_labels=5)).eval()
    recorded = getattr(model, method)(PackedAudio.from_waveforms([torch.randn(length) for length in LENGTHS]))
    assert recorded[0].requires_grad or method == "argmax_packed"
    assert_unpacks(recorded)


def saved_and_loaded(output):
    """Save with torch.save and load again."""
    file = io.BytesIO()
    torch.save(output, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


REBUILT = {
    "by its fields": lambda output: type(output)(**output),
    "by its entries": lambda output: type(output)(output),
    "by a pytree": lambda output: pytree.tree_map(torch.clone, output),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda output: pickle.loads(pickle.dumps(output)),
    "torch.save": saved_and_loaded,
}


@calls
@pytest.mark.parametrize("rebuild", REBUILT.values(), ids=REBUILT)
def test_rebuilt_outputs_unpack_like_the_original(call, rebuild):
    output = output_of(call)
    rebuilt = rebuild(output)
    assert type(rebuilt) is type(output) and list(rebuilt) == list(output)
    assert_unpacks(rebuilt)
    for actual, expected in zip(pytree.tree_leaves(rebuilt), pytree.tree_leaves(output), strict=True):
        assert torch.equal(actual, expected)
    rebuilt.cu_seqlens = torch.tensor([0, 4, 9], dtype=torch.int32)
    assert sizes_of(rebuilt, "ids" if "ids" in rebuilt else "hidden_states") == [4, 5]
    assert_unpacks(output)


SETTINGS = {
    "attribute": lambda output, cu_seqlens: setattr(output, "cu_seqlens", cu_seqlens),
    "key": lambda output, cu_seqlens: output.__setitem__("cu_seqlens", cu_seqlens),
    "update": lambda output, cu_seqlens: output.update(cu_seqlens=cu_seqlens),
}


@pytest.mark.parametrize("put", SETTINGS.values(), ids=SETTINGS)
def test_replaced_cu_seqlens_are_used(put):
    output = output_of(CALLS["logits"])
    original = output.cu_seqlens
    put(output, torch.tensor([0, 1, 9]))
    assert sizes_of(output, None) == sizes_of(output, "hidden_states") == [1, 8]
    put(output, original.clone())
    assert_unpacks(output)
    put(output, original)
    assert_unpacks(output)


def test_outputs_of_exported_calls_unpack():
    model = HubertForCTC(HubertConfig(**PRE_LN)).eval()

    class Packed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, samples):
            return self.model.forward_packed(PackedAudio(samples, LENGTHS))

    samples = PackedAudio.from_waveforms([torch.randn(length) for length in LENGTHS]).samples
    with torch.no_grad():
        output = torch.export.export(Packed(), (samples,)).module()(samples)
    assert sizes_of(output, None) == COUNTS


def test_cached_counts_are_no_field_of_the_output():
    output = output_of(CALLS["tokens"])
    assert list(output) == ["ids", "log_probs", "cu_seqlens"] and len(output.to_tuple()) == 3
    assert "counted" not in repr(output) and dict(output) == output
    with pytest.raises(AttributeError, match="but no counts"):
        output.counts = COUNTS

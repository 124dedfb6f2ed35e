"""Outputs of packed calls: the host knows how many frames each utterance has, for as long as that is what the output says."""

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
    """A tensor that cannot be read, nor anything else done with it."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), named=None):
        raise AssertionError(f"{function} waits for the device")


def output_of(call, **options):
    """The output of a small model, with all that it can have."""
    cls, method = call
    model = cls(HubertConfig(**PRE_LN, num_labels=5, output_hidden_states=True, **options)).eval()
    audio = PackedAudio.from_waveforms([torch.randn(length) for length in LENGTHS])
    with torch.no_grad():
        return getattr(model, method)(audio)


def names_of(output):
    """The fields that have a part for each utterance."""
    return [name for name in output if name != "cu_seqlens"]


def sizes_of(output, name):
    """The frames of each utterance that unpack gives; of hidden states, in every layer."""
    parts = [part if isinstance(part, tuple) else (part,) for part in output.unpack(name)]
    assert all(len({len(state) for state in part}) == 1 for part in parts)
    return [len(part[0]) for part in parts]


def assert_unpacks(output, counts=COUNTS):
    for name in names_of(output):
        is_of_classes = name == "logits" and type(output).__name__.startswith("PackedSequence")
        assert sizes_of(output, name) == ([5] * len(LENGTHS) if is_of_classes else counts), name


@calls
def test_unpacking_waits_for_nothing(call, monkeypatch):
    """Also where gradients are recorded, and utterances go one by one."""
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


def saved(output):
    """Save and load as users of torch do."""
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
    "torch.save": saved,
}


@calls
@pytest.mark.parametrize("rebuild", REBUILT.values(), ids=REBUILT)
def test_what_is_made_of_an_output_unpacks_as_it_does(call, rebuild):
    output = output_of(call)
    again = rebuild(output)
    assert type(again) is type(output) and list(again) == list(output)
    assert_unpacks(again)
    for found, other in zip(pytree.tree_leaves(again), pytree.tree_leaves(output), strict=True):
        assert torch.equal(found, other)
    again.cu_seqlens = torch.tensor([0, 4, 9], dtype=torch.int32)
    assert sizes_of(again, "ids" if "ids" in again else "hidden_states") == [4, 5]
    assert_unpacks(output)


SETTINGS = {
    "attribute": lambda output, cu_seqlens: setattr(output, "cu_seqlens", cu_seqlens),
    "key": lambda output, cu_seqlens: output.__setitem__("cu_seqlens", cu_seqlens),
    "update": lambda output, cu_seqlens: output.update(cu_seqlens=cu_seqlens),
}


@pytest.mark.parametrize("put", SETTINGS.values(), ids=SETTINGS)
def test_other_boundaries_count(put):
    output = output_of(CALLS["logits"])
    own = output.cu_seqlens
    put(output, torch.tensor([0, 1, 9]))
    assert sizes_of(output, None) == sizes_of(output, "hidden_states") == [1, 8]
    put(output, own.clone())
    assert_unpacks(output)
    put(output, own)
    assert_unpacks(output)


def test_an_exported_call_unpacks():
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


def test_what_an_output_knows_is_no_entry_of_it():
    output = output_of(CALLS["tokens"])
    assert list(output) == ["ids", "log_probs", "cu_seqlens"] and len(output.to_tuple()) == 3
    assert "counted" not in repr(output) and dict(output) == output
    with pytest.raises(AttributeError, match="but no counts"):
        output.counts = COUNTS

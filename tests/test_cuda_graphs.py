"""Graphs of repeated layouts: which calls are captured and replayed, and that answers stay those of the inputs at hand.

There is no CUDA here: the capture is stood in for by one that calls again into the memory that it gave out first, as a
graph does.
"""

import copy
import pickle

import pytest
import torch
from conftest import POST_LN, PRE_LN, assert_close, masked_batch
from test_packed import model_of
from torch.utils import _pytree as pytree

from hubert_fast import HubertModel, PackedAudio, cuda_graphs, packed_kernels
from hubert_fast.dispatch import BACKEND_VARIABLE

pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")
LENGTHS = (900, 0, 401)


@pytest.fixture
def captures(monkeypatch):
    """Let graphs run on the CPU, on kernels; return the log of what was captured and replayed."""
    log = []

    def capture(call, inputs):
        with torch.inference_mode(False), torch.no_grad():
            static = [given.clone() for given in inputs]
            outputs = call(*static)
            for tensor in static:
                tensor.fill_(torch.nan)
        log.append("captured")

        def replay():
            assert not torch.is_inference_mode_enabled()
            log.append("replayed")
            for tensor, fresh in zip(pytree.tree_leaves(outputs), pytree.tree_leaves(call(*static)), strict=True):
                if tensor is not None:
                    tensor.copy_(fresh)

        return cuda_graphs._Captured(static, outputs, replay)

    monkeypatch.setattr(cuda_graphs, "_capture", capture)
    monkeypatch.setattr(packed_kernels, "graphs_can_run", lambda device: True)
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    return log


def audio_of(lengths=LENGTHS):
    return PackedAudio.from_waveforms([torch.randn(length) for length in lengths])


def with_graphs(values, limit=2):
    model = model_of(HubertModel, values)
    model.fast_path.cuda_graphs.limit = limit
    return model


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_the_answers_are_those_of_the_inputs_at_hand(values, mode, captures):
    model, plain = with_graphs(values), model_of(HubertModel, values)
    plain.load_state_dict(model.state_dict())
    kept = []
    for count in range(4):
        audio = audio_of()
        with mode():
            found = model.forward_packed(audio, output_hidden_states=True)
            expected = plain.forward_packed(audio, output_hidden_states=True)
        kept.append((found, expected))
        assert captures.count("captured") == (count > 0) and captures.count("replayed") == count
    for found, expected in kept:  # not overwritten by later replays
        assert torch.equal(found[0], expected[0])
        assert all(torch.equal(one, other) for one, other in zip(found.hidden_states, expected.hidden_states, strict=True))
        assert found.hidden_states[-1].data_ptr() == found[0].data_ptr()


def test_padded_calls_with_statistics_over_their_rows(captures):
    model = with_graphs(POST_LN)
    for _ in range(3):
        waveforms, mask = masked_batch((900, 700))
        with torch.no_grad():
            found = model(waveforms + 0.1, attention_mask=mask)[0]
            model.fast_path.cuda_graphs.limit, limit = 0, model.fast_path.cuda_graphs.limit
            assert_close(found, model(waveforms + 0.1, attention_mask=mask)[0], "same graph")
            model.fast_path.cuda_graphs.limit = limit
    assert captures == ["captured", "replayed", "replayed"]


@torch.no_grad()
def test_what_makes_a_layout_another(captures):
    model = with_graphs(PRE_LN, limit=8)
    for _ in range(2):
        model.forward_packed(audio_of())
    assert captures == ["captured", "replayed"]
    model.forward_packed(audio_of((900, 401, 0)))
    model.forward_packed(audio_of(), output_hidden_states=True)
    model.encoder.layers[0].attention.q_proj.weight = torch.nn.Parameter(
        model.encoder.layers[0].attention.q_proj.weight.clone()
    )
    model.forward_packed(audio_of())
    assert captures == ["captured", "replayed"]
    model.encoder.layers[0].attention.q_proj.weight.data.mul_(2)  # in place: the graph reads it where it is
    audio = audio_of()
    found = model.forward_packed(audio)[0]
    assert captures == ["captured", "replayed"] * 2
    model.fast_path.cuda_graphs.limit = 0
    assert torch.equal(found, model.forward_packed(audio)[0])


@torch.no_grad()
def test_the_limit_forgets_the_layout_used_longest_ago(captures):
    model = with_graphs(PRE_LN, limit=1)
    for _ in range(2):
        model.forward_packed(audio_of())
        model.forward_packed(audio_of((500,)))
    assert captures == []
    model.forward_packed(audio_of((500,)))
    assert captures == ["captured", "replayed"]


def test_copies_and_pickles_are_empty():
    model = with_graphs(PRE_LN)
    for path in (pickle.loads(pickle.dumps(model.fast_path)), copy.deepcopy(model.fast_path)):
        assert path.cuda_graphs.limit == 2 and not path.cuda_graphs._seen

"""Test which calls are captured and replayed as CUDA graphs, and that each replay answers for its own inputs.

No GPU is needed: stand-ins for graphs, streams and events do the same on a CPU. Everything else is real.
"""

import copy
import gc
import pickle
import weakref
from contextlib import contextmanager

import pytest
import torch
from conftest import POST_LN, PRE_LN, assert_close, masked_batch
from small_models import model_of

from hubert_fast import HubertModel, PackedAudio
from hubert_fast.dispatch import CUDA_GRAPHS_VARIABLE
from hubert_fast.packed import cuda_graphs
from hubert_fast.packed.cuda_graphs import GraphCache
from hubert_fast.packed.tables import GRAPH_FRAMES, GRAPH_UTTERANCES, bucket_of

pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")
CPU = torch.device("cpu")
BUCKETS = [*range(64, 512, 64), *range(512, GRAPH_FRAMES + 1, 128)]
LENGTHS = (900, 0, 401)
# a quarter of the usual frames in the first convolution, which takes most of the time when interpreted
FEWER = dict(conv_dim=(16, 24, 32), conv_kernel=(20, 8, 4), conv_stride=(20, 4, 4), num_hidden_layers=2)
POST, PRE = dict(POST_LN, **FEWER), dict(PRE_LN, **FEWER)
architectures = pytest.mark.parametrize("values", [POST, PRE], ids=["post-LN", "pre-LN"])


def audio_of(lengths=LENGTHS):
    return PackedAudio.from_waveforms([torch.randn(length) for length in lengths])


def pair_of(values):
    """Return a model with graphs and one of the same weights without."""
    model, plain = model_of(HubertModel, values), model_of(HubertModel, values)
    plain.load_state_dict(model.state_dict())
    plain.fast_path.cuda_graphs.limit = 0
    return model, plain


@pytest.mark.parametrize(
    "values, mode",
    [
        (PRE, torch.inference_mode),
        pytest.param(POST_LN, torch.no_grad, marks=pytest.mark.slow),
        pytest.param(PRE_LN, torch.inference_mode, marks=pytest.mark.slow),
    ],
    ids=["pre-LN, inference_mode", "post-LN, no_grad, all layers", "pre-LN, inference_mode, all layers"],
)
def test_batches_of_any_lengths_share_a_graph(values, mode, captures):
    model, plain = pair_of(values)
    kept = []
    for count, lengths in enumerate([(900,), LENGTHS, (20480,), (399, 400, 5000, 0, 1, 720, 640), (401,)]):
        audio = audio_of(lengths)
        with mode():
            actual, expected = model.forward_packed(audio), plain.forward_packed(audio)
        kept.append((actual, expected))
        assert captures.count("captured") == (count > 0) and captures.count("replayed") == count
    for actual, expected in kept:  # not overwritten by later replays
        assert actual.cu_seqlens.tolist() == expected.cu_seqlens.tolist()
        assert_close(actual[0], expected[0], "same graph")
        assert actual[0].is_inference() is (mode is torch.inference_mode)


@architectures
@torch.no_grad()
def test_values_of_one_batch_never_reach_the_next(values, captures):
    model, plain = pair_of(values)
    for lengths in ((20480,), (20480,), (3000, 20480 - 3200)):
        model.forward_packed(PackedAudio.from_waveforms([torch.full((length,), torch.nan) for length in lengths]))
    audio = audio_of((500, 7000))
    assert_close(model.forward_packed(audio)[0], plain.forward_packed(audio)[0], "same graph")
    assert captures == ["captured", *["replayed"] * 3]


@architectures
@torch.no_grad()
def test_values_of_one_utterance_never_reach_its_neighbours(values, captures):
    model, plain = pair_of(values)
    for lengths in ((2000, 1000), (900, 0, 4000), (9000, 401)):
        waveforms = [torch.randn(length) for length in lengths]
        waveforms[0].fill_(torch.nan)
        actual = model.forward_packed(PackedAudio.from_waveforms(waveforms)).unpack()
        expected = plain.forward_packed(PackedAudio.from_waveforms(waveforms[1:])).unpack()
        assert actual[0].isnan().all()
        for output, reference in zip(actual[1:], expected, strict=True):
            assert output.shape == reference.shape and (not len(reference) or (output - reference).abs().max() < 1e-5)
    assert captures == ["captured", "replayed", "replayed"]


@architectures
@torch.no_grad()
def test_padded_calls(values, captures):
    """A group norm includes padding in its statistics, so padded calls need another graph, unless no row has padding."""
    model, plain = pair_of(values)
    for lengths in ((900, 700), (2000, 401), (1500, 3, 800)):
        waveforms, mask = masked_batch(lengths)
        actual, expected = (network(waveforms + 0.1, attention_mask=mask)[0] for network in (model, plain))
        assert_close(actual, expected, "same graph")
    assert captures == ["captured", "replayed", "replayed"]
    for shape in ((1, 900), (2, 1280), (1, 5001)):
        waveforms = torch.randn(shape)
        assert_close(model(waveforms)[0], plain(waveforms)[0], "same graph", f"{shape}")
    audio = audio_of((5001, 900))
    assert_close(model.forward_packed(audio)[0], plain.forward_packed(audio)[0], "same graph")
    assert captures.count("captured") == (2 if values is POST else 1)
    assert captures.count("replayed") == (5 if values is POST else 6)


def test_buckets():
    assert [bucket_of(hops, 1) for hops in (1, 64, 65, 512, 513, 640, 641, 1536)] == [64, 64, 128, 512, 640, 640, 768, 1536]
    assert bucket_of(GRAPH_FRAMES + 1, 1) is bucket_of(1, GRAPH_UTTERANCES + 1) is None
    assert sorted({bucket_of(hops, 8) for hops in range(1, GRAPH_FRAMES + 1)}) == BUCKETS
    assert 2 * len(BUCKETS) <= cuda_graphs.GRAPHS  # packed calls, and padded calls of a group-norm model


@torch.no_grad()
def test_lengths_at_bucket_edges(captures):
    model, plain = pair_of(PRE)
    for lengths in ((64 * 320,), (64 * 320 - 319,), (64 * 320 + 1,), (400,) * 8, (112 * 320, *(399,) * 7)):
        audio = audio_of(lengths)
        assert_close(model.forward_packed(audio)[0], plain.forward_packed(audio)[0], "same graph", str(lengths))
    assert captures == ["captured", "replayed", "replayed", "captured", "replayed"]


@torch.no_grad()
def test_unsuitable_batches_use_no_graph(captures, monkeypatch):
    model = model_of(HubertModel, PRE)
    for _ in range(3):
        model.forward_packed(audio_of((401,) * (GRAPH_UTTERANCES + 1)))
    monkeypatch.setattr("hubert_fast.packed.tables.GRAPH_FRAMES", 64)
    for _ in range(3):
        model.forward_packed(audio_of((64 * 320 + 1,)))
        model.forward_packed(PackedAudio(torch.randn(65 * 320), (401,)))  # more samples than the lengths need
        model.forward_packed(audio_of((399,)))  # no frames
        model.forward_packed(audio_of(), output_hidden_states=True)  # a graph would keep all hidden states
    assert captures == [] and not model.fast_path.cuda_graphs._may_capture


@torch.no_grad()
def test_replacing_a_weight_discards_the_graphs(captures):
    model = model_of(HubertModel, PRE)
    for _ in range(2):
        model.forward_packed(audio_of())
    assert captures == ["captured", "replayed"]
    model.encoder.layers[0].attention.q_proj.weight = torch.nn.Parameter(
        model.encoder.layers[0].attention.q_proj.weight.clone()
    )
    model.forward_packed(audio_of())
    assert captures == ["captured", "replayed"] and not model.fast_path.cuda_graphs  # they read the old weight
    model.encoder.layers[0].attention.q_proj.weight.data.mul_(2)  # changed in place, so that the graph reads the new values
    audio = audio_of()
    actual = model.forward_packed(audio)[0]
    assert captures == ["captured", "replayed"] * 2
    model.fast_path.cuda_graphs.limit = 0
    assert_close(actual, model.forward_packed(audio)[0], "same graph")
    assert captures == ["captured", "replayed"] * 2


def double(cache, key, values, addresses="here"):
    """Double up to eight values by the graph of `key`; return whether there was such a graph."""
    inputs = torch.tensor(values)
    outputs = cache.run(key, addresses, CPU, lambda: (lambda x: (2 * x, None), [torch.zeros(8)]), (inputs,), len(values))
    if outputs is not None:
        assert outputs[0].tolist() == [2 * value for value in values] and outputs[1] is None
    return outputs is not None


def graphs_of(cache):
    return [captured.graph for captured in cache._generation.graphs.values()]


def test_a_graph_beyond_the_limit_frees_all(captures):
    """Graphs are only freed together: freeing one would free memory that libraries keep for the stream they share."""
    cache = GraphCache(2)
    assert [double(cache, key, [1.0, 2.0]) for key in "abab"] == [False, False, True, True]
    assert [double(cache, key, [3.0] * 8) for key in "cde"] == [False] * 3 and len(cache) == 2  # a key seen once frees nothing
    done, freed = cache._generation.done, graphs_of(cache)
    assert double(cache, "c", [4.0]) and len(cache) == 1 and not set(graphs_of(cache)) & set(freed)
    assert double(cache, "a", [5.0]) and len(cache) == 2
    assert captures.count("captured") == 4 and cache.replays == 4
    for key in range(cuda_graphs.KEYS_REMEMBERED + 9):
        double(cache, key, [1.0])
    assert len(cache._may_capture) == cuda_graphs.KEYS_REMEMBERED and len(cache) == 2
    # each replay waits for the one before it, on any stream, and memory is only freed after the last replay
    assert done.log == [*["waited", "recorded"] * 2, "synchronized"]
    done = cache._generation.done
    cache.limit = 1
    assert not cache and done.log == [*["waited", "recorded"] * 2, "synchronized"]
    cache.limit = 0
    assert [double(cache, "f", [6.0]) for _ in range(3)] == [False] * 3
    with pytest.raises(ValueError, match="limit must be a whole number, 0 or more, but is -1"):
        cache.limit = -1


def test_live_graphs_share_a_memory_pool(captures):
    cache = GraphCache(4)
    assert [double(cache, key, [1.0]) for key in "aabbcc"] == [False, True] * 3
    first, *others = graphs_of(cache)
    assert first.shared is None and [graph.shared for graph in others] == [first.pool()] * 2
    cache.limit = 0  # PyTorch raises when given the handle of a freed pool
    cache.limit = 4
    assert [double(cache, "d", [1.0]) for _ in range(2)] == [False, True]
    (last,) = graphs_of(cache)
    assert last.shared is None


def test_the_replay_after_a_failed_one_still_waits(captures, monkeypatch):
    cache = GraphCache(4)
    assert [double(cache, "a", [1.0]) for _ in range(2)] == [False, True]
    with monkeypatch.context() as context:
        context.setattr(cuda_graphs, "_copied", lambda outputs, rows: torch.ones(rows).view(-1, 2))
        with pytest.raises(RuntimeError, match="invalid for input of size 1"):
            double(cache, "a", [1.0])
    assert double(cache, "a", [2.0])
    assert cache._generation.done.log == ["waited", "recorded"] * 3


def test_moving_the_weights_recaptures_the_graphs(captures):
    cache = GraphCache(4)
    assert [double(cache, "a", [1.0]) for _ in range(2)] == [False, True]
    before = cache._generation
    assert [double(cache, "a", [1.0], "elsewhere") for _ in range(2)] == [False, True]
    assert len(cache) == 1 and before.done.log[-1] == "synchronized" and cache._generation is not before


def test_graphs_are_on_by_default_in_tested_torch_versions():
    assert cuda_graphs.default_limit("2.11.0+cu130", None) == cuda_graphs.default_limit("2.6.0", None) == cuda_graphs.GRAPHS
    assert cuda_graphs.default_limit("2.12.0", None) == cuda_graphs.default_limit("2.11.0", False) == 0
    assert cuda_graphs.default_limit("2.13.0a0+git12", True) == cuda_graphs.GRAPHS


def test_the_environment_variable_must_be_0_or_1(monkeypatch):
    monkeypatch.setenv(CUDA_GRAPHS_VARIABLE, "0")
    assert GraphCache().limit == 0
    monkeypatch.setenv(CUDA_GRAPHS_VARIABLE, "yes")
    with pytest.raises(ValueError, match="HUBERT_FAST_CUDA_GRAPHS must be 0 or 1, but is 'yes'"):
        GraphCache()


@torch.no_grad()
def test_a_failed_capture_runs_without_a_graph(captures, monkeypatch, caplog):
    model, plain = pair_of(PRE)
    real_graph = torch.cuda.graph

    @contextmanager
    def failing(graph, **options):
        yield
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "graph", failing)
    for length in (900, 901, 902):
        audio = audio_of((length,))
        assert torch.equal(model.forward_packed(audio)[0], plain.forward_packed(audio)[0])
    warnings = [record.message for record in caplog.records if "run without a CUDA graph" in record.message]
    assert len(warnings) == 1 and "CUDA out of memory" in warnings[0]
    monkeypatch.setattr(torch.cuda, "graph", real_graph)
    for _ in range(2):  # another size is captured
        audio = audio_of((20500,))
        assert_close(model.forward_packed(audio)[0], plain.forward_packed(audio)[0], "same graph")
    assert captures == ["captured", "replayed"]


def test_a_failed_capture_is_remembered_while_its_size_recurs(captures, monkeypatch, caplog):
    monkeypatch.setattr(cuda_graphs, "_capture", lambda *arguments: 1 / 0)
    cache = GraphCache(2)
    for key in range(3 * cuda_graphs.KEYS_REMEMBERED):  # every other size comes only once
        assert not double(cache, "often", [1.0]) and not double(cache, key, [1.0])
    assert caplog.text.count("run without a CUDA graph, since capturing it failed: division by zero") == 1


@torch.no_grad()
def test_calls_that_copy_from_the_host_use_no_graph(captures):
    model, plain = pair_of(dict(POST, conv_pos_batch_norm=True))
    waveforms, mask = masked_batch((900, 700))
    for _ in range(3):
        model(waveforms, attention_mask=mask)
    assert captures == []
    for length in (900, 2000):
        audio = audio_of((length, 500))
        assert_close(model.forward_packed(audio)[0], plain.forward_packed(audio)[0], "same graph")
    assert captures == ["captured", "replayed"]


@torch.no_grad()
def test_graphs_keep_no_model_alive(captures):
    model = model_of(HubertModel, PRE)
    for _ in range(2):
        model.forward_packed(audio_of())
    assert captures == ["captured", "replayed"]
    weight = weakref.ref(model.encoder.layers[0].attention.q_proj.weight)
    for graph in graphs_of(model.fast_path.cuda_graphs):
        graph.call = None  # only a stand-in has it
    gc.disable()  # a model in a reference cycle would wait for the collector
    try:
        del model
        assert weight() is None
    finally:
        gc.enable()


@torch.no_grad()
def test_copies_and_pickles_are_empty(captures):
    model = model_of(HubertModel, PRE)
    assert model.fast_path.cuda_graphs.limit == cuda_graphs.GRAPHS
    for _ in range(2):
        model.forward_packed(audio_of())
    for limit in (cuda_graphs.GRAPHS, 2, 0):
        model.fast_path.cuda_graphs.limit = limit
        for path in (pickle.loads(pickle.dumps(model.fast_path)), copy.deepcopy(model.fast_path)):
            assert path.cuda_graphs.limit == limit and not path.cuda_graphs

"""Compare the packed graph with the definition in float64: every configuration, packed and padded, any lengths."""

import logging
import warnings
from importlib import import_module

import numpy as np
import pytest
import torch
from conftest import POST_LN, PRE_LN, assert_close, masked_batch, true_frames
from small_models import ALL, model_of

from hubert_fast import HubertForCTC, HubertForSequenceClassification, HubertModel, PackedAudio
from hubert_fast.packed.torch_graph import _attention_jagged, attention

CLASSES = (HubertModel, HubertForCTC, HubertForSequenceClassification)
# with equal neighbours, lengths without frames, and one of more than a block of positions
LENGTHS = (8000, 0, 401, 6399, 1, 720, 6399, 6399, 399, 400, 48000)
architectures = pytest.mark.parametrize("values", ALL.values(), ids=ALL)
classes = pytest.mark.parametrize("cls", CLASSES)


def waveforms_of(lengths=LENGTHS):
    return [torch.randn(length) for length in lengths]


def definition(model, *arguments, **options):
    """Run the definition in float64, whatever the model's dtype. Requesting attentions selects the definition."""
    dtype = model.dtype
    with torch.no_grad():
        output = model.double()(*(x.double() for x in arguments), output_attentions=True, output_hidden_states=True, **options)
    model.to(dtype)
    return output


def definition_of_one(model, waveform):
    """Return the definition's output for one utterance, or `None` if it is too short for a frame."""
    if len(waveform) < model.config.receptive_field:
        return None
    return definition(model, waveform[None])


@classes
@architectures
def test_packed_batches_match_each_utterance_alone(cls, values):
    model = model_of(cls, values)
    hop, waveforms = model.config.inputs_to_logits_ratio, waveforms_of()
    with torch.no_grad():
        output = model.forward_packed(PackedAudio.from_waveforms(waveforms, hop_samples=hop), output_hidden_states=True)
        assert model.explain_path() == "packed"
    assert output.cu_seqlens.dtype == torch.int32 and len(output.cu_seqlens) == len(waveforms) + 1
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    for waveform, actual, states in zip(waveforms, output.unpack(), output.unpack("hidden_states"), strict=True):
        expected = definition_of_one(model, waveform)
        if expected is None:
            assert len(states[0]) == 0 and (len(actual) == 0 or cls is HubertForSequenceClassification)
            continue
        assert_close(actual, expected[0][0], "other graph", f"{len(waveform)} samples")
        for index, (state, reference) in enumerate(zip(states, expected.hidden_states, strict=True)):
            assert_close(state, reference[0], "other graph", f"{len(waveform)} samples, state {index}")


@classes
@architectures
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("samples", [8000, 8100], ids=["whole hops", "part of a hop"])
def test_padded_calls_match_the_definition(cls, values, masked, samples):
    model = model_of(cls, values)
    waveforms, mask = masked_batch((samples, 5000, 401, 6399))
    waveforms += 0.1  # padding that is not zero, which statistics over time include
    mask = mask if masked else None
    expected = definition(model, waveforms, attention_mask=mask)
    with torch.no_grad():
        actual = model(waveforms, attention_mask=mask, output_hidden_states=True)
    field, hop = model.config.receptive_field, model.config.inputs_to_logits_ratio
    counts = None if mask is None else ((mask.sum(-1) - field) // hop + 1).clamp(min=0)

    def unpadded(x):
        return x if mask is None or x.dim() != 3 else x[torch.arange(x.shape[1]) < counts[:, None]]

    assert_close(unpadded(actual[0]), unpadded(expected[0]), "other graph")
    for index, (state, reference) in enumerate(zip(actual.hidden_states, expected.hidden_states, strict=True)):
        assert_close(unpadded(state), unpadded(reference), "other graph", f"state {index}")
        if masked:
            padding = torch.arange(state.shape[1]) >= counts[:, None]
            assert padding.any() and not state[padding].any()


@pytest.mark.parametrize("kind", ["bool", "float", "left-padded", "sum above the samples"])
def test_only_the_sum_of_a_mask_matters(kind):
    model = model_of(HubertModel)
    waveforms, mask = masked_batch((6000, 4000))
    with torch.no_grad():
        expected = model(waveforms, attention_mask=mask)[0]
        masks = {"bool": mask.bool(), "float": mask.float(), "left-padded": mask.flip(1), "sum above the samples": 2 * mask}
        actual = model(waveforms, attention_mask=masks[kind])[0]
        if kind == "sum above the samples":
            expected = model(waveforms)[0]
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_lose_no_more_precision_than_the_definition(values, dtype):
    """In half precision, the error against float64 must be smaller than the definition's own."""
    # 16 channels per group: with fewer, the definition's bfloat16 grouped convolutions are wrong on some CPUs
    model = model_of(HubertModel, values, hidden_size=64, num_conv_pos_embedding_groups=4).to(dtype)
    waveforms = [waveform.to(dtype).float() for waveform in waveforms_of((8000, 6399, 12000))]
    with torch.no_grad():
        packed = model.forward_packed(PackedAudio.from_waveforms(waveforms))[0]
        defined = torch.cat([model(waveform[None].to(dtype), output_attentions=True)[0][0] for waveform in waveforms])
    assert packed.dtype == defined.dtype == dtype
    expected = torch.cat([definition(model, waveform[None])[0][0] for waveform in waveforms])
    if dtype == torch.float64:
        assert (packed - expected).abs().max() < 1e-12
    else:
        error, allowed = ((x.double() - expected).square().mean().sqrt() for x in (packed, defined))
        assert error < allowed, f"RMS error {error:.2e}, but the definition's is {allowed:.2e}"


@pytest.mark.parametrize("values", [POST_LN, PRE_LN], ids=["post-LN", "pre-LN"])
def test_nan_and_infinity_stay_in_their_utterance(values):
    model = model_of(values=values)
    waveforms = waveforms_of((4000, 5000, 6000, 3000))
    audio = PackedAudio.from_waveforms(waveforms)
    with torch.no_grad():
        expected = model.forward_packed(audio).unpack()
        waveforms[1][2500], waveforms[2][:] = torch.nan, torch.inf
        actual = model.forward_packed(PackedAudio.from_waveforms(waveforms)).unpack()
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[3], expected[3])
    assert actual[1].isnan().all() and actual[2].isnan().all()


def test_inputs_stay_unchanged_and_outputs_share_no_memory():
    model = model_of(HubertModel, POST_LN)
    waveforms = torch.randn(2, 6400)
    audio = PackedAudio.from_waveforms(list(waveforms), normalize=True)
    original, samples = waveforms.clone(), audio.samples.clone()
    with torch.no_grad():
        outputs = [model(waveforms, output_hidden_states=True), model.forward_packed(audio, output_hidden_states=True)]
        repeated = [model(waveforms, output_hidden_states=True), model.forward_packed(audio, output_hidden_states=True)]
    assert torch.equal(waveforms, original) and torch.equal(audio.samples, samples)
    for output, repetition in zip(outputs, repeated):
        # the last state is the last hidden state; every other one has its own memory
        assert len({state.data_ptr() for state in output.hidden_states}) == 4
        output[0].zero_()
        output.hidden_states[0].zero_()
        assert all(state.any() for state in (*output.hidden_states[1:-1], *repetition.hidden_states))


def test_strided_inputs():
    model = model_of(HubertModel)
    waveforms = torch.randn(3, 6400)
    strided = torch.stack([waveforms, torch.full_like(waveforms, torch.nan)], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    expanded = waveforms[:1].expand(3, -1)
    with torch.no_grad():
        assert torch.equal(model(strided)[0], model(waveforms)[0])
        assert torch.equal(model(expanded)[0], model(expanded.contiguous())[0])
        mask = torch.ones(1, 6400).expand(3, -1)
        assert_close(model(strided, attention_mask=mask)[0], model(waveforms)[0], "same graph")


@pytest.mark.parametrize("cls", CLASSES)
def test_batches_without_utterances_or_frames(cls):
    model = model_of(cls)
    with torch.no_grad():
        nothing = model.forward_packed(PackedAudio.from_waveforms([]), output_hidden_states=True)
        short = model.forward_packed(PackedAudio.from_waveforms([torch.randn(399), torch.randn(0)]), output_hidden_states=True)
        padded = model(torch.randn(2, 800), attention_mask=torch.zeros(2, 800), output_hidden_states=True)
        empty = model(torch.randn(0, 800), output_hidden_states=True)
    assert nothing.cu_seqlens.tolist() == [0] and short.cu_seqlens.tolist() == [0, 0, 0]
    assert nothing.unpack() == [] and nothing.unpack("hidden_states") == []
    assert len(short.unpack()) == 2 and all(state.shape == (0, 48) for state in short.hidden_states)
    assert padded[0].isfinite().all() and not any(state.any() for state in padded.hidden_states)
    assert len(empty[0]) == 0 and all(state.shape == (0, 2, 48) for state in empty.hidden_states)


@pytest.mark.parametrize("cls", CLASSES)
def test_utterances_run_one_by_one_while_gradients_are_recorded(cls, caplog):
    model = model_of(cls)
    audio = PackedAudio.from_waveforms(waveforms_of())
    with torch.no_grad():
        expected = model.forward_packed(audio, output_hidden_states=True)
    with caplog.at_level(logging.DEBUG, "hubert_fast"):
        actual = model.forward_packed(audio, output_hidden_states=True)  # gradients are recorded
    assert "definition: a gradient may be needed" in caplog.text
    assert actual[0].requires_grad and torch.equal(actual.cu_seqlens, expected.cu_seqlens)
    assert_close(actual[0], expected[0], "other graph")
    for state, reference in zip(actual.hidden_states, expected.hidden_states, strict=True):
        assert_close(state, reference, "other graph")
    actual[0].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    short = model.forward_packed(PackedAudio.from_waveforms([torch.randn(100)]), output_hidden_states=True)
    assert short.cu_seqlens.tolist() == [0, 0] and len(short.hidden_states) == 4


def test_long_audio_in_slices(monkeypatch):
    """Slices of time and of blocks change no values."""
    from hubert_fast.packed import positions, torch_graph

    window_statistics = import_module("hubert_fast.ops.window_statistics")  # the package has a function of this name
    model = model_of(HubertModel, POST_LN)
    audio = PackedAudio.from_waveforms(waveforms_of((40000, 9999, 400, 64000)))
    with torch.no_grad():
        expected = model.forward_packed(audio)[0]
        monkeypatch.setattr(torch_graph, "SLICE_BYTES_CPU", 1)
        monkeypatch.setattr(window_statistics, "WINDOWS_AT_ONCE", 77)
        monkeypatch.setattr(positions, "BLOCKS_AT_ONCE", 3)
        monkeypatch.setattr(torch_graph, "ROWS_AT_ONCE_CPU", 5)
        assert_close(model.forward_packed(audio)[0], expected, "same graph")


def test_attention_of_jagged_batches():
    """Run the GPU's attention through its CPU fallback: neighbours of different lengths and utterances without frames."""
    counts = (5, 0, 17, 17, 1)
    q, k, v = torch.randn(3, sum(counts), 24)
    assert_close(_attention_jagged(q, k, v, counts, 3), attention(q, k, v, counts, 3), "attention")
    assert _attention_jagged(q[:0], k[:0], v[:0], (0, 0), 3).shape == (0, 24)


class TestPackedAudio:
    def test_layout(self):
        audio = PackedAudio.from_waveforms([np.ones(321, np.float32), [], np.full(3, 2.0), torch.full((640,), 3.0)])
        assert audio.lengths == (321, 0, 3, 640) and audio.starts == [0, 640, 640, 960] and len(audio) == 4
        assert len(audio.samples) == 1600 and audio.samples.dtype == torch.float32
        assert [waveform.unique().tolist() for waveform in audio.waveforms()] == [[1], [], [2], [3]]
        assert audio.samples.sum() == 321 + 6 + 3 * 640

    def test_read_only_byte_swapped_and_reversed_arrays(self):
        forwards = np.arange(4, dtype=np.float32)
        locked, swapped = forwards.copy(), forwards.astype(">f4")
        locked.setflags(write=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            audio = PackedAudio.from_waveforms([locked, swapped, forwards[::-1], np.stack([forwards, -forwards], 1)[:, 1]])
        actual = [waveform.tolist() for waveform in audio.waveforms()]
        assert actual == [[0, 1, 2, 3], [0, 1, 2, 3], [3, 2, 1, 0], [0, -1, -2, -3]]

    def test_gaps_between_utterances_are_zeros(self, monkeypatch):
        monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.full(shape, 77, dtype))
        for dtype in (np.float32, np.int16):
            samples = PackedAudio.from_waveforms([np.ones(length, dtype) for length in (321, 0, 640, 1)]).samples
            assert samples.tolist() == [1] * 321 + [0] * 319 + [1] * 641 + [0] * 319

    @pytest.mark.parametrize("kind", ["int16", "float32", "int16 and float32", "float64", "tensors", "gradient", "empty"])
    def test_samples_are_written_into_pinned_memory_without_a_second_copy(self, kind, monkeypatch):
        """They go straight into the one block that PyTorch allocates, which may still hold the data of another batch."""
        pcm = [np.arange(length, dtype=np.int16) - 300 for length in (321, 0, 640, 1)]
        noise = [np.random.randn(length).astype(np.float32) for length in (320, 5, 0, 999)]
        waveforms = {
            "int16": pcm,
            "float32": noise,
            "int16 and float32": [*pcm, *noise],
            "float64": [np.random.randn(7), np.array([1e300, np.nan])],
            "tensors": [torch.from_numpy(pcm[0]), torch.randn(5).bfloat16(), torch.randn(4)[::2], torch.randn(0), [0.5, 1.0]],
            "gradient": [torch.randn(800, requires_grad=True), torch.randn(400)],
            "empty": [],
        }[kind]
        expected = PackedAudio.from_waveforms(waveforms, normalize=True)
        blocks, empty = [], torch.empty

        def pinned_empty(*size, pin_memory=False, **options):
            assert pin_memory and options["device"] == "cpu"
            blocks.append(empty(*size, **options).fill_(77 if options["dtype"] == torch.int16 else torch.nan))
            return blocks[-1]

        def refuse_copy(*arguments, **options):
            raise AssertionError("a second copy of the batch")

        monkeypatch.setattr(torch, "empty", pinned_empty)
        monkeypatch.setattr(torch.Tensor, "pin_memory", refuse_copy)
        actual = PackedAudio.from_waveforms(iter(waveforms), normalize=True, pin_memory=True)
        assert len(blocks) == 1 and actual.samples.data_ptr() == blocks[0].data_ptr()
        assert actual.samples.untyped_storage().nbytes() == blocks[0].untyped_storage().nbytes() == expected.samples.nbytes
        assert actual.samples.dtype == expected.samples.dtype and actual.samples.requires_grad == (kind == "gradient")
        assert torch.equal(actual.samples.nan_to_num(1.25), expected.samples.nan_to_num(1.25))
        assert (actual.lengths, actual.normalize, actual.hop_samples) == (expected.lengths, True, 320)
        if kind == "gradient":
            actual.samples.sum().backward()
            assert waveforms[0].grad.eq(1).all()

    def test_errors_of_pin_memory(self, monkeypatch):
        """Errors other than a missing GPU are raised unchanged: after out of memory, a smaller batch may fit."""
        if torch.cuda.is_available():
            pytest.skip("this machine can pin memory")
        with pytest.raises(
            RuntimeError, match=r"needs a GPU, but PyTorch finds none; .* pin_memory=torch.cuda.is_available\(\)"
        ):
            PackedAudio.from_waveforms([torch.zeros(400)], pin_memory=True)
        with pytest.raises(ValueError, match="waveform 0 must be 1-D"):
            PackedAudio.from_waveforms([torch.zeros(2, 400)], pin_memory=True)

        def out_of_memory(*size, **options):
            raise RuntimeError("CUDA error: out of memory")

        monkeypatch.setattr(torch, "empty", out_of_memory)
        with pytest.raises(RuntimeError, match=r"^CUDA error: out of memory$"):
            PackedAudio.from_waveforms([np.zeros(400)], pin_memory=True)

    def test_waveforms_are_copied_and_rounded(self):
        doubles, tensor = np.array([1 / 3, 1e300, -1e300, np.nan]), torch.randn(5)
        halves, swapped = np.array([0.1], np.float16), np.array([-300, 7], ">i2")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            audio = PackedAudio.from_waveforms([doubles, tensor, halves, swapped, tensor.bfloat16()])
            pcm = PackedAudio.from_waveforms([swapped])
        original = tensor.tolist()
        doubles[:], tensor[:] = 0, 0
        actual = audio.waveforms()
        assert actual[0][:3].tolist() == [np.float32(1 / 3), np.inf, -np.inf] and actual[0][3].isnan()
        assert actual[1].tolist() == original and actual[2].item() == np.float16(0.1)
        assert (
            actual[3].tolist() == [-300 / 32768, 7 / 32768] and actual[4].tolist() == torch.tensor(original).bfloat16().tolist()
        )
        assert pcm.samples.dtype == torch.int16 and pcm.samples[:2].tolist() == [-300, 7]

    def test_moving_to_the_same_device_returns_the_same_object(self):
        audio = PackedAudio.from_waveforms([np.ones(3, np.float32)], normalize=True)
        assert audio.to("cpu") is audio
        moved = audio.to("meta")
        assert moved.samples.is_meta and (moved.lengths, moved.normalize, moved.hop_samples) == ((3,), True, 320)

    def test_gradients_reach_the_waveforms(self):
        model = model_of(HubertModel).requires_grad_(False)
        waveforms = [torch.randn(800, requires_grad=True), torch.randn(400, requires_grad=True)]
        model.forward_packed(PackedAudio.from_waveforms(waveforms))[0].square().sum().backward()
        assert all(waveform.grad.abs().sum() > 0 for waveform in waveforms)

    @pytest.mark.parametrize(
        ("samples", "lengths", "message"),
        [
            (torch.zeros(640, dtype=torch.int64), (640,), "samples must be 1-D, floating point or int16, but are torch.int64"),
            (torch.zeros(2, 640), (640,), r"samples must be 1-D, floating point or int16, but are torch.float32 \[2, 640\]"),
            (torch.zeros(640), (400, 300), "samples must have at least 960 entries for these lengths, but has 640"),
            (torch.zeros(640), (-1,), r"lengths must be whole numbers, 0 or more, but are \(-1,\)"),
        ],
        ids=["int64", "2-D", "too few", "negative"],
    )
    def test_constructor_refuses_bad_arguments(self, samples, lengths, message):
        with pytest.raises(ValueError, match=message):
            PackedAudio(samples, lengths)

    def test_int16_samples_are_pcm(self):
        pcm = np.array([-32768, 0, 16384], np.int16)
        audio = PackedAudio.from_waveforms([pcm, pcm[:1]])
        assert audio.samples.dtype == torch.int16
        assert audio.waveform()[:3].tolist() == [-1, 0, 0.5] and audio.waveforms()[1].tolist() == [-1]
        mixed = PackedAudio.from_waveforms([pcm, np.array([0.25])])
        assert mixed.samples.dtype == torch.float32 and mixed.waveforms()[0].tolist() == [-1, 0, 0.5]
        assert mixed.waveforms()[1].tolist() == [0.25]

    @pytest.mark.parametrize("as_int16", [False, True], ids=["float32", "int16"])
    def test_normalizes_like_the_processor(self, speech, as_int16):
        from hubert_fast.feature_extractor import normalize

        waveforms = [speech, 3 * speech[:1111] + 0.1, np.zeros(500, np.float32), np.zeros(0, np.float32)]
        if as_int16:
            waveforms = [(waveform * 32768 * 0.5).astype(np.int16) for waveform in waveforms]
        audio = PackedAudio.from_waveforms(waveforms, normalize=True)
        assert audio.samples.dtype == (torch.int16 if as_int16 else torch.float32)
        for actual, waveform in zip(audio.waveforms(), waveforms):
            scaled = waveform / np.float32(32768) if as_int16 else waveform
            np.testing.assert_allclose(actual.numpy(), normalize(scaled), atol=2e-6)

    @pytest.mark.parametrize(
        ("waveforms", "message"),
        [
            ([torch.zeros(4), torch.zeros(2, 3)], r"waveform 1 must be 1-D, but has shape \[2, 3\]"),
            ([torch.zeros(4, dtype=torch.int32)], "waveform 0 must be floating point or int16, but is torch.int32"),
            (["a.wav"], "waveform 0 must be a 1-D array of samples"),
            ([np.array(["a"])], "waveform 0 must be a 1-D array of samples"),
            ([np.zeros((2, 3))], r"waveform 0 must be 1-D, but has shape \[2, 3\]"),
            ([np.zeros(3, np.uint8)], "waveform 0 must be floating point or int16, but is torch.uint8"),
            (torch.zeros(400), "waveforms must be a list of 1-D waveforms, but got a single one"),
        ],
        ids=["2-D", "int32", "path", "strings", "2-D array", "uint8", "single tensor"],
    )
    def test_errors_describe_bad_waveforms(self, waveforms, message):
        with pytest.raises(ValueError, match=message):
            PackedAudio.from_waveforms(waveforms)

    def test_errors_of_forward_packed_and_unpack(self):
        model = model_of()
        with pytest.raises(TypeError, match="takes PackedAudio, but got a Tensor: create one with PackedAudio"):
            model.forward_packed(torch.zeros(1, 400))
        with pytest.raises(ValueError, match="hop_samples=320 for this model, but has 160"):
            model.forward_packed(PackedAudio.from_waveforms([torch.zeros(800)], hop_samples=160))
        with torch.no_grad(), pytest.raises(KeyError, match="'attentions' is not in this output"):
            model.forward_packed(PackedAudio.from_waveforms([torch.zeros(800)])).unpack("attentions")
        with torch.no_grad(), pytest.raises(KeyError, match="cu_seqlens cannot be unpacked: it holds the boundaries"):
            model.forward_packed(PackedAudio.from_waveforms([torch.zeros(800)])).unpack("cu_seqlens")


def test_helper_true_frames_matches_frame_mask_of_the_model():
    model = model_of()
    mask = masked_batch((8000, 399, 400))[1]
    frames = torch.ones(3, 24, 1) * torch.arange(24)[:, None]
    assert true_frames(frames, mask)[:, 0].tolist() == frames[model.frame_mask(mask, 24)][:, 0].tolist()

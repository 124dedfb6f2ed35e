"""Test greedy CTC decoding: C++ and Python agree, from logits and from ids, and errors name wrong arguments."""

import contextlib
import copy
import math
import pickle
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubert_fast import HubertForCTC, HubertProcessor, audio, ctc, demo
from hubert_fast.ctc import Token, Vocabulary, Word, fallback, greedy_decode

TOKENS = ["<pad>", "|", "A", "B", "ch", "é", "<s>", None, "漢"]
VOCABULARY = Vocabulary(tuple(TOKENS), special_ids=frozenset({0, 6}))
BACKENDS = pytest.mark.parametrize("backend", ["c++", "python"])
NEEDS_BUILD = pytest.mark.skipif(ctc.why_not_built() is not None, reason=f"not built: {ctc.why_not_built()}")


@pytest.fixture(autouse=True)
def _skip_without_extension(request):
    if "c++" in request.node.name and ctc.why_not_built() is not None:
        pytest.skip(f"the C++ extension is not built: {ctc.why_not_built()}")


def decode(ids, boundaries=None, vocabulary=VOCABULARY, **options):
    ids = np.array(ids) if isinstance(ids, list) else ids
    boundaries = [0, len(ids)] if boundaries is None and ids.ndim == 1 else boundaries
    return greedy_decode(ids, boundaries, vocabulary, **{"blank_id": 0, "timestamps": "token", **options})


@BACKENDS
def test_merging_blanks_and_special_tokens(backend):
    """Runs merge, blanks are dropped, a blank keeps equal letters apart, and special tokens leave no trace."""
    ids = [0, 2, 2, 0, 2, 1, 3, 3, 3, 6, 3, 0, 1, 4]
    log_probs = -np.arange(len(ids), dtype=np.float32) / 10
    (transcript,) = decode(ids, backend=backend, log_probs=log_probs)
    assert transcript.text == "AA BB ch"
    assert [token[:3] for token in transcript.tokens] == [
        (2, 1, 2),
        (2, 4, 4),
        (1, 5, 5),
        (3, 6, 8),
        (3, 10, 10),
        (1, 12, 12),
        (4, 13, 13),
    ]
    assert [word[:3] for word in transcript.words] == [("AA", 0.02, 0.1), ("BB", 0.12, 0.22), ("ch", 0.26, 0.28)]
    assert isinstance(transcript.tokens[0], Token) and isinstance(transcript.words[0], Word)
    assert transcript.tokens[3].log_probability == pytest.approx(-0.7)
    assert transcript.words[0].confidence == pytest.approx(math.exp(-(0.1 + 0.2 + 0.4) / 3))
    kept = [1, 2, 4, 5, 6, 7, 8, 10, 12, 13]
    assert transcript.confidence == pytest.approx(math.exp(-sum(kept) / 10 / len(kept)))


@BACKENDS
def test_any_token_may_be_the_blank(backend):
    (transcript,) = decode([2, 2, 3, 2, 3, 0], vocabulary=["x", "|", "A", "B"], blank_id=2, backend=backend)
    assert transcript.text == "BBx" and math.isnan(transcript.confidence)  # no probabilities were given


@BACKENDS
def test_timestamps_selects_words_and_tokens(backend):
    for timestamps, words, tokens in ((None, None, None), ("word", 1, None), ("token", 1, 2)):
        (transcript,) = decode([2, 3], timestamps=timestamps, backend=backend)
        assert (transcript.words and len(transcript.words), transcript.tokens and len(transcript.tokens)) == (words, tokens)


@BACKENDS
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.uint8])
def test_memory_layout_does_not_matter(backend, dtype):
    """The same frames give the same transcripts: packed, padded, transposed, reversed or with gaps in memory."""
    rows = np.array([[2, 0, 2, 1, 3], [3, 3, 1, 4, 0], [5, 8, 0, 0, 2]], dtype=dtype)
    lengths = [5, 3, 0]
    expected = decode(rows, lengths, backend=backend)
    assert [transcript.text for transcript in expected] == ["AA B", "B", ""]
    packed = np.concatenate([row[:length] for row, length in zip(rows, lengths)])
    layouts = [
        (packed, [0, 5, 8, 8]),
        (packed[::-1].copy()[::-1], torch.tensor([0, 5, 8, 8], dtype=torch.int32)),  # a negative stride
        (np.asfortranarray(rows), np.array(lengths)),
        (np.repeat(rows, 2, axis=1)[:, ::2], torch.tensor(lengths)),
        (torch.from_numpy(rows.copy()).t().contiguous().t(), lengths),
    ]
    for ids, boundaries in layouts:
        assert repr(decode(ids, boundaries, backend=backend)) == repr(expected)
    assert decode(np.broadcast_to(rows[:1], (2, 5)), None, backend=backend)[1].text == "AA B"  # stride 0


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_decoding_from_logits(backend, dtype):
    logits = (3 * torch.randn(3, 40, len(TOKENS))).to(dtype)
    logits[..., 7] = -100  # the id without a token
    lengths = [40, 17, 0]
    padded = decode(logits, lengths, backend=backend)
    packed = torch.cat([row[:length] for row, length in zip(logits, lengths)])
    assert repr(decode(packed, [0, 40, 57, 57], backend=backend)) == repr(padded)
    if dtype != torch.bfloat16:
        assert repr(decode(packed.numpy(), [0, 40, 57, 57], backend=backend)) == repr(padded)
    log_probs = logits.double().log_softmax(-1).max(-1)
    for row, transcript in enumerate(padded):
        for token in transcript.tokens:
            frames = slice(token.first_frame, token.last_frame + 1)
            assert set(log_probs.indices[row, frames].tolist()) == {token.id}
            # the rounding of a float32 log-softmax of values of about 10
            assert token.log_probability == pytest.approx(log_probs.values[row, frames].mean().item(), abs=3e-6)


@pytest.mark.filterwarnings("error")
def test_logits_in_any_memory_layout():
    logits = np.random.default_rng(0).standard_normal((12, 9)).astype(np.float32)
    logits[:, 7] = -9
    expected = repr(decode(logits, [0, 12]))
    read_only = logits.copy()
    read_only.flags.writeable = False
    for variant in (logits[::-1].copy()[::-1], logits.astype(">f4"), np.asfortranarray(logits), read_only):
        assert repr(decode(variant, [0, 12])) == expected


@BACKENDS
def test_a_used_vocabulary_can_be_copied_and_pickled(backend):
    vocabulary = Vocabulary(("<pad>", "|", "A"), frozenset({0}))
    decode([2, 1], vocabulary=vocabulary, backend=backend)
    for twin in (copy.deepcopy(vocabulary), pickle.loads(pickle.dumps(vocabulary))):
        assert twin == vocabulary and decode([2, 1], vocabulary=twin, backend=backend)[0].text == "A"


def test_lower_case_and_word_delimiter():
    vocabulary = Vocabulary(("<pad>", "|", "A", "B"), frozenset({0}), replace_word_delimiter_char="_", do_lower_case=True)
    (transcript,) = decode([1, 2, 1, 1, 3, 1], vocabulary=vocabulary)
    assert transcript.text == "_a_b_" and [word.word for word in transcript.words] == ["a", "b"]
    assert decode([1, 2, 1], vocabulary={"<pad>": 0, "A": 2, "|": 1})[0].text == "A"  # spaces at the ends are stripped


def test_word_times_of_real_recordings():
    """Word times of the demo recordings are in order, within the audio, and not in silence."""
    model = HubertForCTC.from_pretrained(demo.MODEL)
    processor = HubertProcessor.from_pretrained(demo.MODEL)
    recordings = demo.recordings()[:3]
    waveforms = [audio.load(recording.path) for recording in recordings]
    batch = processor(waveforms, sampling_rate=16000, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    frames = model.frame_counts(batch.attention_mask.sum(-1))
    transcripts = greedy_decode(logits, frames, processor.tokenizer, blank_id=model.config.pad_token_id, timestamps="word")
    for transcript, recording, waveform in zip(transcripts, recordings, waveforms):
        assert (
            [word.word.lower() for word in transcript.words] == recording.reference.split() == transcript.text.lower().split()
        )
        assert transcript.confidence > 0.8 and all(0.3 < word.confidence <= 1 for word in transcript.words)
        times = [time for word in transcript.words for time in (word.start_seconds, word.end_seconds)]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(waveform) / 16000
        # every word is audible: its samples are louder than the quietest tenth of the recording
        quiet = np.quantile(np.abs(waveform), 0.1)
        for word in transcript.words:
            part = waveform[int(16000 * word.start_seconds) : int(16000 * word.end_seconds)]
            assert np.abs(part).mean() > quiet, word


@BACKENDS
def test_empty_input_gives_empty_output(backend):
    assert decode(np.zeros(0, np.int64), [0], backend=backend) == []
    assert decode(np.zeros((0, 5), np.int64), [], backend=backend) == []
    assert decode(torch.zeros(0, 5, 9), [], backend=backend) == []
    (transcript,) = decode(np.zeros(0, np.int64), [0, 0], backend=backend)
    assert (transcript.text, transcript.words, transcript.tokens) == ("", [], []) and math.isnan(transcript.confidence)
    assert decode(torch.zeros(2, 0, 9), None, backend=backend)[1].text == ""


CASES = st.integers(1, 12).flatmap(
    lambda size: st.fixed_dictionaries(
        {
            "kinds": st.lists(st.integers(0, 3), min_size=size, max_size=size),
            "tokens": st.lists(st.text(max_size=3), min_size=size, max_size=size),
            "rows": st.lists(st.lists(st.integers(-1, size), max_size=30), max_size=6),
            "blank": st.integers(0, size - 1),
            "group": st.booleans(),
            "probabilities": st.booleans(),
            "threads": st.integers(1, 4),
            "dtype": st.sampled_from([np.int64, np.int32, np.int16]),
        }
    )
)


@NEEDS_BUILD
@settings(max_examples=300, deadline=None, derandomize=True)
@given(CASES)
def test_both_backends_agree(case):
    from hubert_fast import _ctc

    lengths = np.array([len(row) for row in case["rows"]], np.int64)
    ids = np.array([id for row in case["rows"] for id in row], case["dtype"])
    log_probs = -np.random.default_rng(0).random(len(ids)).astype(np.float32) if case["probabilities"] else None
    results = []
    for backend in (_ctc, fallback):
        table = backend.Table(case["tokens"], case["kinds"])
        arguments = (ids, np.cumsum(lengths) - lengths, lengths, table, case["blank"], log_probs, case["group"], True, True)
        try:
            results.append(backend.decode(*arguments, case["threads"]))
        except ValueError as error:
            results.append(str(error))
    first, second = results
    if isinstance(first, str) or isinstance(second, str):
        assert first == second
        return
    assert first.keys() == second.keys()
    for name, values in first.items():
        if isinstance(values, list):
            assert values == second[name], name
        else:
            assert values.dtype == second[name].dtype, name
            np.testing.assert_array_equal(values, second[name], err_msg=name)


@NEEDS_BUILD
def test_thread_count_changes_nothing():
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(0, 7, (50, 400)), rng.integers(0, 400, 50)
    log_probs = -rng.random(ids.shape)
    expected = decode(ids, lengths, threads=1, log_probs=log_probs, backend="c++")
    for threads in (2, 3, 64, None):
        assert decode(ids, lengths, threads=threads, log_probs=log_probs, backend="c++") == expected
    ids[[7, 20, 49], 0] = 99  # the error names the first of them, whichever thread finds one
    lengths[[7, 20, 49]] = 5
    for threads in (1, 4):
        with pytest.raises(ValueError, match="frame 0 of utterance 7 has token id 99"):
            decode(ids, lengths, threads=threads, backend="c++")


@NEEDS_BUILD
@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="the system has no CPU clock per thread")
def test_decoding_releases_the_interpreter_lock():
    """The decoding thread uses CPU time while this thread holds the interpreter lock."""
    ids = np.zeros(20_000_000, np.uint8)
    ids[::2] = 2
    decoding, clocks = threading.Event(), []

    def work():
        clocks.append(time.pthread_getcpuclockid(threading.get_ident()))
        decoding.set()  # from here on, this thread keeps the interpreter lock unless decoding releases it
        decode(ids, [0, len(ids)], timestamps=None, threads=1, backend="c++")

    def cpu_seconds() -> float:
        with contextlib.suppress(OSError):  # the thread has ended
            return time.clock_gettime(clocks[-1])
        return 0.0

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        for _ in range(20):  # a busy machine may not let this thread run in time
            decoding.clear()
            worker = threading.Thread(target=work)
            worker.start()
            decoding.wait()
            start, deadline = cpu_seconds(), time.monotonic() + 1
            while (used := cpu_seconds() - start) < 0.01 and time.monotonic() < deadline:
                pass
            worker.join()
            if used >= 0.01:
                return
    finally:
        sys.setswitchinterval(interval)
    pytest.fail("decoding did not release the interpreter lock")


BAD = {
    "unknown id": (([2, 99], [0, 2]), "frame 1 of utterance 0 has token id 99, which is not in the vocabulary of 9 tokens"),
    "negative id": (([2, -1], [0, 2]), "has token id -1"),
    "id without a token": (([2, 7], [0, 2]), "has token id 7"),
    "decreasing": (
        ([2] * 5, [0, 3, 2, 5]),
        r"must not decrease and must lie within 0 to 5 frames, but go from 3 to 2 in \[0, 3, 2, 5\]",
    ),
    "decreasing, of many": ((np.ones(300, int), [*range(50), 30, *range(50, 300)]), "but go from 49 to 30 in 301 numbers"),
    "after the end": (([2] * 5, [0, 6]), r"lie within 0 to 5 frames, but go from 6 to 5 in \[0, 6\]"),
    "before the start": (([2] * 5, [-1, 5]), "but go from 0 to -1"),
    "empty": (([2] * 5, []), "cu_seqlens need at least one entry"),
    "nested": (([2] * 5, [[0, 5]]), "cu_seqlens must be whole numbers"),
    "text": (([2] * 5, "05"), "cu_seqlens must be whole numbers"),
    "long double": ((np.ones((3, 9), np.longdouble), [0, 3]), "logits must be float16, float32 or float64, but are float128"),
    "no boundaries": ((np.array([2]), None), "got None"),
    "length above the frames": ((np.ones((2, 3), int), [3, 4]), "lengths must be 0 to 3, the number of frames, but one is 4"),
    "negative length": ((np.ones((2, 3), int), [3, -4]), "but one is -4"),
    "too few": ((np.ones((2, 3), int), [3]), "lengths must have 2 entries, one per utterance, but has 1"),
    "float lengths": ((np.ones((2, 3), int), [3.0, 2.0]), "lengths must be whole numbers"),
    "float tensor": ((np.ones((2, 3), int), torch.ones(2)), "lengths must be whole numbers in one dimension, but are float32"),
    "huge": ((np.ones((2, 3), int), [2**70, 1]), "lengths must be whole numbers"),
    "bool": ((np.ones((2, 3), bool), [3, 3]), "ids must be int64, int32, int16 or uint8, but are bool"),
    "uint16": ((np.ones(3, np.uint16), [0, 3]), "but are uint16"),
    "big endian": ((np.ones(3, ">i8"), [0, 3]), "but are >i8"),
    "complex": ((np.ones(3, complex), [0, 3]), "but are complex128"),
    "no array": (("no array", [0, 3]), "ids must be a tensor or an array, but are a str"),
    "3-D ids": ((np.ones((2, 3, 4), int), [3, 3]), r"ids must be \[N\] or \[B, T\], but have shape \[2, 3, 4\]"),
    "1-D logits": ((torch.ones(3), [0, 3]), r"logits must be \[N, V\] or \[B, T, V\], but have shape \[3\]"),
    "no vocabulary": ((torch.ones(3, 0), [0, 3]), r"but have shape \[3, 0\]"),
}


@BACKENDS
@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD.keys())
def test_errors_name_wrong_arguments(arguments, message, backend):
    ids, boundaries = arguments
    ids = np.array(ids) if isinstance(ids, list) else ids
    with pytest.raises(ValueError, match=message):
        greedy_decode(ids, boundaries, VOCABULARY, blank_id=0, backend=backend)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(blank_id=9), "blank_id must be a token id below 9, but is 9"),
        (dict(blank_id=-1), "but is -1"),
        (dict(blank_id=None), "but is None"),
        (dict(threads=0), "threads must be a whole number, 1 or more, but is 0"),
        (dict(timestamps="words"), "timestamps must be 'word', 'token' or None, but is 'words'"),
        (dict(backend="rust"), "backend must be one of auto, c\\+\\+, python, but is 'rust'"),
        (dict(log_probs=np.zeros(3)), r"log_probs must be floating point of the ids' shape, \[2\], but are float64 \[3\]"),
        (dict(log_probs=np.zeros(2, int)), "but are int64"),
        (dict(vocabulary=["a", 3]), "token 1 of the vocabulary must be text, but is 3"),
        (dict(vocabulary=["a", "\ud800"]), "token 1 of the vocabulary is not valid Unicode"),
        (dict(vocabulary={"a": "0"}), "maps 'a' to '0'"),
        (dict(vocabulary={"a": -1}), "maps 'a' to -1"),
        (dict(vocabulary={"a": 0, "b": 2**31 - 1}), "ids from 0 to 999999, but maps 'b' to 2147483647"),
        (dict(vocabulary=[]), "blank_id must be a token id below 0"),
    ],
    ids=str,
)
def test_errors_name_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        decode([0, 0], **options)
    with pytest.raises(ValueError, match="log_probs may be given only with ids"):
        decode(torch.zeros(2, 9), [0, 2], log_probs=np.zeros(2))


def test_without_the_extension_python_decodes_and_warns_once(monkeypatch):
    monkeypatch.setattr(ctc, "why_not_built", lambda: "no compiler")
    monkeypatch.setattr(ctc, "_warned", [])
    with pytest.warns(RuntimeWarning, match=r"decodes CTC in Python, many times slower: .* is not built \(no compiler\)"):
        assert decode([2, 3])[0].text == "AB"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode([2, 3])[0].text == "AB"
    with pytest.raises(RuntimeError, match="not built: no compiler"):
        decode([2, 3], backend="c++")

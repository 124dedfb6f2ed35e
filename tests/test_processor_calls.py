"""Compare calls of the feature extractor and the processor with transformers', over their arguments: types, dtypes, values."""

import sys

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from hubert_fast import CTCTokenizer, HubertFeatureExtractor, HubertProcessor, audio, demo

PADDINGS = [False, True, "longest", "max_length", "do_not_pad", transformers.utils.PaddingStrategy.LONGEST]


def assert_same(actual, expected, path="batch"):
    """Check that two batches have the same structure, types, dtypes and values, bit for bit."""
    if hasattr(expected, "keys"):
        assert list(actual.keys()) == list(expected.keys()), path
        for name in expected:
            assert_same(actual[name], expected[name], f"{path}.{name}")
    elif isinstance(expected, torch.Tensor):
        assert isinstance(actual, torch.Tensor) and actual.dtype == expected.dtype, f"{path}: {actual}"
        assert torch.equal(actual, expected), f"{path}: {actual} != {expected}"
    elif isinstance(expected, (list, tuple)) or (isinstance(expected, np.ndarray) and expected.dtype == object):
        assert type(actual) is type(expected) and len(actual) == len(expected), f"{path}: {actual} != {expected}"
        for index, pair in enumerate(zip(actual, expected)):
            assert_same(*pair, f"{path}[{index}]")
    elif isinstance(expected, np.ndarray):
        assert isinstance(actual, np.ndarray) and actual.dtype == expected.dtype, f"{path}: {actual!r}"
        np.testing.assert_array_equal(actual, expected, err_msg=path)
    else:
        assert actual == expected and type(actual) is type(expected), f"{path}: {actual!r} != {expected!r}"


def outcome(function, *arguments, **options):
    """Return what a call returns, and `None` and its error if it raises one that a user causes."""
    try:
        return function(*arguments, **options), None
    except (ValueError, TypeError) as error:
        return None, error


@st.composite
def calls(draw):
    """Return options of the constructor, waveforms and options of a call."""
    created = dict(
        do_normalize=draw(st.booleans()),
        return_attention_mask=draw(st.booleans()),
        padding_value=draw(st.sampled_from([0.0, -1.5])),
    )
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    if draw(st.booleans()):
        lengths = [lengths[0]] * len(lengths)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    rows = [rng.standard_normal(length).astype(draw(st.sampled_from([np.float32, np.float64]))) for length in lengths]
    kind = draw(st.sampled_from(["arrays", "lists", "one", "matrix"]))
    if kind == "one":
        rows = rows[0]
    elif kind == "lists":
        rows = [row.tolist() for row in rows]
    elif kind == "matrix":
        rows = np.stack([np.resize(row, lengths[0]) for row in rows])
    options = dict(
        padding=draw(st.sampled_from(PADDINGS)),
        truncation=draw(st.booleans()),
        max_length=draw(st.none() | st.integers(1, 45) | st.integers(1, 45)),
        pad_to_multiple_of=draw(st.none() | st.integers(1, 9)),
        return_attention_mask=draw(st.sampled_from([None, True, False])),
        return_tensors=draw(st.sampled_from([None, "np", "pt"])),
        sampling_rate=16000,
    )
    left_out = draw(st.sets(st.sampled_from(sorted(options)), max_size=3))
    return created, rows, {name: value for name, value in options.items() if name not in left_out}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(calls())
def test_calls_of_the_feature_extractor_match_transformers(call):
    created, rows, options = call
    theirs, ours = transformers.Wav2Vec2FeatureExtractor(**created), HubertFeatureExtractor(**created)
    expected, their_error = outcome(theirs, rows, **options)
    actual, error = outcome(ours, rows, **options)
    if their_error is None:
        assert error is None, error
        assert_same(actual, expected)
    elif "inhomogeneous" in str(their_error) and error is None:
        # their normalisation fails for rows that padding leaves with different lengths; each must be as it is alone
        assert options["padding"] == "max_length" and len(rows) > 1
        for index, row in enumerate(rows):
            (alone,) = ours([row], **options)["input_values"]
            np.testing.assert_array_equal(actual["input_values"][index], alone)
    else:
        assert isinstance(error, ValueError), f"theirs: {their_error}, ours: {error}, {actual}"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(calls(), st.booleans())
def test_padding_of_features_matches_transformers(call, with_masks):
    created, rows, options = call
    options.pop("sampling_rate", None)
    theirs, ours = transformers.Wav2Vec2FeatureExtractor(**created), HubertFeatureExtractor(**created)
    rows = [np.asarray(row, np.float32) for row in (rows if np.ndim(rows[0]) else [rows])]
    features = [{"input_values": row} for row in rows]
    # without return_attention_mask, transformers leaves masks that it is given as they are
    if (with_masks and options.get("return_attention_mask")) or (created["return_attention_mask"] and with_masks):
        options.pop("return_attention_mask", None) if created["return_attention_mask"] else None
        features = [{**row, "attention_mask": np.ones(len(row["input_values"]), np.int32)} for row in features]
    for values in (features, {name: [row[name] for row in features] for name in features[0]}):
        expected, their_error = outcome(theirs.pad, values, **options)
        actual, error = outcome(ours.pad, values, **options)
        if their_error is None:
            assert error is None, error
            assert_same(actual, expected)
        else:
            assert isinstance(error, ValueError), f"theirs: {their_error}, ours: {error}"


def test_tensors_and_lists_pad_as_in_transformers():
    theirs, ours = transformers.Wav2Vec2FeatureExtractor(), HubertFeatureExtractor()
    for convert in (torch.tensor, list, np.float32):
        rows = [convert([0.5, -1.0, 2.0]), convert([1.0, 3.0])]
        assert_same(ours.pad({"input_values": rows}), theirs.pad({"input_values": rows}))
    with pytest.raises(ValueError, match="only input_values and attention_mask can be padded, but got also labels"):
        ours.pad([{"input_values": [0.5], "labels": [1]}])
    with pytest.raises(ValueError, match="expected input_values to pad, but got input_ids"):
        ours.pad([{"input_ids": [1]}])
    with pytest.raises(ValueError, match="same keys"):
        ours.pad([{"input_values": [0.5]}, {"input_values": [0.5], "attention_mask": [1]}])
    with pytest.raises(ValueError, match="each attention_mask must have the length of its input_values"):
        ours.pad([{"input_values": [0.5, 1.0], "attention_mask": [1]}])


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(return_tensors="jax"), ValueError, "return_tensors must be 'pt', 'tf', 'np' or None, but is 'jax'"),
        (dict(padding="left"), ValueError, "padding must be True, False, 'longest', 'max_length', 'do_not_pad', but is 'left'"),
        (dict(padding="max_length"), ValueError, "padding='max_length' needs max_length, the number of samples"),
        (dict(truncation=True), ValueError, "truncation=True needs max_length"),
        (dict(truncation="longest_first"), ValueError, "must be True or False, but is 'longest_first'"),
        (dict(max_length=-1), ValueError, "max_length must be a whole number, 0 or more, or None, but is -1"),
        (dict(pad_to_multiple_of=0), ValueError, "pad_to_multiple_of must be a whole number, 1 or more"),
        (dict(return_tensors="pt"), ValueError, "have 2 to 3 entries, which do not fit one tensor: pass padding=True"),
        (dict(sampling_rate=8000), ValueError, "takes 16000 Hz audio, but got 8000 Hz"),
        (dict(pad=True), TypeError, "pad"),
        (dict(device="cpu"), TypeError, "device"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused(options, error, message):
    rows = [np.ones(3, np.float32), np.ones(2, np.float32)]
    for call in (HubertFeatureExtractor(), HubertProcessor.from_tokens(["<pad>"])):
        with pytest.raises(error, match=message):
            call(rows, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(feature_size=80), "feature_size must be 1 for HuBERT models, but is 80"),
        (dict(padding_side="left"), "padding_side must be 'right' for HuBERT models, but is 'left'"),
        (dict(do_normalize="yes"), "do_normalize must be bool, but is 'yes'"),
    ],
    ids=str,
)
def test_extractors_refuse_values_that_models_cannot_take(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        HubertFeatureExtractor(**options)
    with pytest.raises(ValueError, match=message):
        HubertFeatureExtractor.from_pretrained(tmp_path, **options)


@pytest.fixture(scope="module")
def processors():
    theirs = transformers.Wav2Vec2Processor.from_pretrained(demo.MODEL)
    return theirs, HubertProcessor.from_pretrained(demo.MODEL)


AUDIO = [np.sin(np.arange(700, dtype=np.float32)), np.cos(np.arange(500, dtype=np.float32))]
CALLS = {
    "default": dict(audio=AUDIO),
    "one waveform": dict(audio=AUDIO[0], return_tensors="pt"),
    "padded": dict(audio=AUDIO, padding=True, return_tensors="pt"),
    "the longest, arrays": dict(audio=AUDIO, padding="longest", return_tensors="np"),
    "a multiple": dict(audio=AUDIO, padding=True, pad_to_multiple_of=128, return_tensors="pt"),
    "a maximum": dict(audio=AUDIO, padding="max_length", max_length=600, truncation=True, return_tensors="pt"),
    "no mask": dict(audio=AUDIO, padding=True, return_attention_mask=False, return_tensors="pt"),
    "text": dict(text="STOP IT"),
    "texts": dict(text=["STOP IT", "GO"]),
    "padded texts": dict(text=["STOP IT", "GO"], padding=True, return_tensors="pt"),
    "truncated texts": dict(text=["STOP IT", "GO"], max_length=4, truncation=True),
    "both": dict(audio=AUDIO, text=["STOP IT", "GO"]),
    "both, padded": dict(audio=AUDIO, text=["STOP IT", "GO"], padding=True, return_tensors="pt"),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_the_processor_match_transformers(processors, name):
    theirs, ours = processors
    options = dict(CALLS[name], **({"sampling_rate": 16000} if "audio" in CALLS[name] else {}))
    expected = theirs(**options)
    assert_same(ours(**options), {key: expected[key] for key in expected})
    if "audio" in options and "text" not in options:
        options["raw_speech"] = options.pop("audio")
        assert_same(ours(**options), {key: expected[key] for key in expected})
        assert_same(ours(options.pop("raw_speech"), **options), {key: expected[key] for key in expected})


@pytest.mark.skipif(transformers.__version__ < "4.5", reason="transformers 4.34 has no options of one part")
def test_options_of_one_part_alone(processors):
    theirs, ours = processors
    options = dict(
        audio=AUDIO,
        text=["STOP IT", "GO"],
        sampling_rate=16000,
        audio_kwargs=dict(padding=True, return_tensors="pt"),
        text_kwargs=dict(padding="max_length", max_length=9, return_tensors="np"),
    )
    actual, expected = ours(**options), theirs(**options)
    assert_same(actual, {key: expected[key] for key in expected})


@pytest.mark.parametrize("options", [dict(return_tensors="pt"), dict(padding="max_length", max_length=1024), dict()], ids=str)
def test_padding_of_the_processor_matches_transformers(processors, options):
    theirs, ours = processors
    features = [{"input_values": row} for row in AUDIO]
    labels = [{"input_ids": ids} for ids in ours(text=["STOP IT", "GO"]).input_ids]
    for arguments in ((features, labels), (features, None), (None, labels)):
        actual = ours.pad(arguments[0], labels=arguments[1], **options)
        expected = theirs.pad(arguments[0], labels=arguments[1], **options)
        assert_same(actual, {key: expected[key] for key in expected})
    with pytest.raises(ValueError, match="expected input_features, labels or both"):
        ours.pad()
    with pytest.raises(TypeError, match="pad_side"):
        ours.pad(features, pad_side="left")


def test_the_deprecated_target_context(processors):
    _, ours = processors
    assert ours.current_processor is ours.feature_extractor
    with pytest.warns(FutureWarning, match="pass text= or labels= instead"), ours.as_target_processor():
        assert ours.current_processor is ours.tokenizer
        labels = ours("STOP IT").input_ids
        padded = ours.pad([{"input_ids": labels}, {"input_ids": labels[:2]}], return_tensors="pt")
    assert labels == ours(text="STOP IT").input_ids and padded.input_ids.tolist() == [labels, labels[:2] + [0] * 5]
    with pytest.raises(RuntimeError), pytest.warns(FutureWarning), ours.as_target_processor():
        raise RuntimeError
    assert ours.current_processor is ours.feature_extractor


def test_processors_name_what_they_do_not_take(processors):
    _, ours = processors
    with pytest.raises(TypeError, match=r"HubertProcessor got unknown options: paddding\. This call takes .*padding"):
        ours(AUDIO, paddding=True)
    with pytest.raises(TypeError, match="got unknown options: sampling_rate"):
        ours(text="A", sampling_rate=16000)
    with pytest.raises(ValueError, match="two names of one argument"):
        ours(AUDIO, raw_speech=AUDIO)
    with pytest.raises(ValueError, match=r"text must be a text or a list of texts, but got 16000 \(int\)"):
        ours(AUDIO, 16000)
    for waveforms, message in (
        ("talk.wav", "but are a str: hubert_fast.audio.load returns the samples of a file"),
        ({"array": [0.5], "sampling_rate": 16000}, "but are a dict: pass its samples"),
        (np.zeros((2, 3, 4)), r"must be \[S\] or \[B, S\] \(mono\), but have shape \[2, 3, 4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            ours(waveforms)
    assert ours.model_input_names == ["input_values", "attention_mask"]
    assert ours.tokenizer.model_input_names == ["input_ids", "attention_mask"]


def test_a_map_over_a_batch_keeps_the_lengths_of_its_rows():
    """As `datasets.map(batched=True)` calls it, with default arguments."""
    for extractor in (HubertFeatureExtractor(), HubertFeatureExtractor(return_attention_mask=True)):
        batch = extractor([row.tolist() for row in AUDIO], sampling_rate=16000)
        assert [len(row) for row in batch["input_values"]] == [700, 500]
        for row, waveform in zip(batch["input_values"], AUDIO):
            np.testing.assert_array_equal(row, extractor(waveform)["input_values"][0])


def test_pipelines_of_transformers_take_our_objects(processors):
    theirs, ours = processors
    model = transformers.HubertForCTC.from_pretrained(demo.MODEL)
    recording = audio.load(demo.recordings()[0].path)
    texts = []
    for processor in (theirs, ours):
        pipeline = transformers.pipeline(
            "automatic-speech-recognition",
            model=model,
            tokenizer=processor.tokenizer,
            feature_extractor=processor.feature_extractor,
            device="cpu",
        )
        texts.append((pipeline(recording.copy(), return_timestamps="word"), pipeline(recording.copy(), chunk_length_s=1)))
    assert texts[0] == texts[1] and texts[0][0]["text"] == demo.recordings()[0].reference.upper()
    assert isinstance(ours.tokenizer, CTCTokenizer)


def test_tensors_of_tensorflow_without_it_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"return_tensors='tf' needs TensorFlow: pip install 'hubert_fast\[tensorflow\]'"):
        HubertFeatureExtractor()(np.zeros(1000, np.float32), return_tensors="tf")

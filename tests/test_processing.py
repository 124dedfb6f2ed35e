"""Compare waveform normalisation, text and files with transformers' Wav2Vec2Processor."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import transformers
from conftest import assert_close
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubert_fast import HubertFeatureExtractor, HubertProcessor
from hubert_fast.hub import CheckpointError
from hubert_fast.tokenizer import CTCTokenizer

LARGE_LS960 = "<pad> <s> </s> <unk> | E T A O N I H S R D L U M W C F G Y P B V K ' X J Q Z".split()


@pytest.fixture(params=[True, False], ids=["mask", "no mask"])
def extractors(request, tmp_path):
    options = dict(feature_size=1, sampling_rate=16000, padding_value=0.0, do_normalize=True)
    theirs = transformers.Wav2Vec2FeatureExtractor(**options, return_attention_mask=request.param)
    theirs.save_pretrained(tmp_path)
    return theirs, HubertFeatureExtractor.from_pretrained(tmp_path)


def test_batches_match_transformers(extractors, speech):
    theirs, ours = extractors
    waveforms = [speech[:9000], 0.01 * speech[3000:8000] + 0.2, speech[:401]]
    expected = theirs(waveforms, sampling_rate=16000, padding=True, return_tensors="pt")
    actual = ours(waveforms, sampling_rate=16000, padding=True, return_tensors="pt")
    assert actual.keys() == expected.keys()
    assert_close(actual["input_values"], expected["input_values"], "same graph")
    if "attention_mask" in expected:
        assert torch.equal(actual["attention_mask"], expected["attention_mask"])


def test_waveforms_of_every_type_and_silence(speech):
    extractor = HubertFeatureExtractor(do_normalize=False)
    for waveform in (speech, [speech], speech.tolist(), torch.from_numpy(speech)):
        assert torch.equal(extractor(waveform, return_tensors="pt")["input_values"], torch.from_numpy(speech)[None])
    pair = extractor(torch.from_numpy(speech[:400]).reshape(2, 200), return_tensors="pt")["input_values"]
    assert torch.equal(pair, torch.from_numpy(speech[:400]).reshape(2, 200))
    quiet = HubertFeatureExtractor()(np.zeros(500, np.float32), return_tensors="pt")["input_values"]
    assert torch.equal(quiet, torch.zeros(1, 500))


def test_int16_samples_normalise_like_float_ones(speech):
    extractor = HubertFeatureExtractor()
    loud = np.round(speech * 32767).astype(np.int16)
    # 16-bit rounding, about 1e-4 of this waveform's amplitude; the 1e-7 under the root adds about as much
    (actual,), (expected,) = extractor(loud)["input_values"], extractor(speech)["input_values"]
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=2e-3)


def test_batches_read_and_move_as_in_transformers(speech):
    extractor = HubertFeatureExtractor(return_attention_mask=True)
    batch = extractor([speech, speech[:5000]], padding=True, return_tensors="pt")
    assert batch.input_values is batch["input_values"] and {**batch}.keys() == {"input_values", "attention_mask"}
    expected = batch.input_values.half()
    assert batch.to("cpu", torch.float16) is batch, "transformers moves a batch in place"
    assert torch.equal(batch.input_values, expected) and batch.attention_mask.dtype == torch.int32
    assert batch.to(torch.float64).input_values.dtype == torch.float64
    assert batch.to(dtype=torch.float32, device="cpu", non_blocking=True).input_values.dtype == torch.float32
    assert batch.to(torch.device("meta")).attention_mask.is_meta
    batch["labels"] = [torch.zeros(2), "text"]
    assert batch.to(device="meta").labels[0].is_meta and batch.labels[1] == "text"
    with pytest.raises(AttributeError, match="has input_values, attention_mask, labels, but no logits"):
        _ = batch.logits


@pytest.mark.parametrize(
    "waveforms, rate, message",
    [
        (np.zeros(500), 8000, "takes 16000 Hz audio, but got 8000 Hz"),
        ([np.zeros(500), np.zeros((2, 500))], 16000, r"waveform 1 must be 1-D \(mono\), but has shape \[2, 500\]"),
        ([np.zeros(500), np.array([0.0, np.nan])], 16000, "waveform 1 has NaN"),
        ([np.array(["a", "b"])], 16000, "must hold numbers"),
        ([], 16000, "at least one waveform"),
    ],
    ids=["rate", "stereo", "NaN", "text", "no waveforms"],
)
def test_errors_describe_bad_waveforms(waveforms, rate, message):
    with pytest.raises(ValueError, match=message):
        HubertFeatureExtractor()(waveforms, sampling_rate=rate)


def _their_tokenizer(folder, tokens=LARGE_LS960, **options):
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **options)
    tokenizer.save_pretrained(folder)
    return tokenizer


VOCABULARIES = {
    "large-ls960": (LARGE_LS960, {}),
    "lower case": (LARGE_LS960, dict(do_lower_case=True)),
    "blank last, tokens of two letters": (
        ["a", "b", " ", "ch", "é", "[PAD]", "[UNK]", "<s>", "</s>"],
        dict(pad_token="[PAD]", unk_token="[UNK]", word_delimiter_token=" "),
    ),
    "delimiter written as another character": (
        ["|", "x", "y", "<pad>", "<unk>", "<s>", "</s>"],
        dict(replace_word_delimiter_char="_"),
    ),
}


@pytest.fixture(scope="module", params=VOCABULARIES, ids=list(VOCABULARIES))
def tokenizers(request, tmp_path_factory):
    """Return transformers' tokenizer, and ours loaded from its files."""
    tokens, options = VOCABULARIES[request.param]
    folder = tmp_path_factory.mktemp("tokenizer")
    return _their_tokenizer(folder, tokens, **options), CTCTokenizer.from_pretrained(folder)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_batch_decode_and_its_offsets_match_transformers(tokenizers, data):
    theirs, ours = tokenizers
    blank, size = ours.pad_token_id, len(ours.vocabulary)
    ids = st.one_of(st.just(blank), st.integers(0, size - 1))  # half blanks, as in real output
    length = data.draw(st.integers(0, 40))
    rows = data.draw(st.lists(st.lists(ids, min_size=length, max_size=length), min_size=1, max_size=4))
    group = data.draw(st.booleans())
    # transformers 4.34.1 also removes spaces before punctuation by default: see the README
    options = dict(group_tokens=group, output_char_offsets=True, output_word_offsets=True)
    expected = theirs.batch_decode(rows, **options, clean_up_tokenization_spaces=False)
    for batch in (rows, torch.tensor(rows), np.array(rows)):
        actual = ours.batch_decode(batch, **options)
        assert actual.text == expected["text"]
        assert actual.char_offsets == expected["char_offsets"]
        assert actual.word_offsets == expected["word_offsets"]
    assert ours.batch_decode(rows, group_tokens=group) == expected["text"]
    assert list(ours.batch_decode(rows, output_word_offsets=True).keys()) == ["text", "word_offsets"]
    if length:
        assert ours.decode(rows[0], **options).word_offsets == expected["word_offsets"][0]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_skipped_special_tokens_act_like_blanks(tokenizers, data):
    """transformers drops special tokens, blanks included, before it merges runs, which turns HELLO into HELO."""
    theirs, ours = tokenizers
    row = data.draw(st.lists(st.integers(0, len(ours.vocabulary) - 1), max_size=40))
    blanked = [ours.pad_token_id if id in ours.special_ids else id for id in row]
    options = dict(output_char_offsets=True, output_word_offsets=True)
    expected = theirs.batch_decode([blanked], **options, clean_up_tokenization_spaces=False)
    actual = ours.batch_decode([row], skip_special_tokens=True, **options)
    assert (actual.text, actual.char_offsets, actual.word_offsets) == tuple(expected.values())


def test_labels_of_text_match_transformers(tmp_path):
    theirs = _their_tokenizer(tmp_path, LARGE_LS960)
    ours = HubertProcessor(HubertFeatureExtractor(return_attention_mask=True), CTCTokenizer.from_pretrained(tmp_path))
    for text in ("HELLO WORLD", "", "IT'S", "naïve", "<s>A </s>", "A <unk> B"):
        assert ours(text=text).input_ids == theirs(text).input_ids
    (tmp_path / "long").mkdir()
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", "c", "h", "ch", "a", "cha", "("]
    theirs = _their_tokenizer(tmp_path / "long", tokens)
    long = CTCTokenizer.from_pretrained(tmp_path / "long")
    for text in ("cha", "a ch a", "chcha  hc", "<s>a", "(ch (", "chach a"):
        assert long(text)["input_ids"] == theirs(text).input_ids, text
    theirs = _their_tokenizer(tmp_path)
    assert ours(text=["A B", "C"]).input_ids == theirs(["A B", "C"]).input_ids
    assert ours.decode(ours(text="A X").input_ids) == "A X"
    for unknown in ("<unk>", None):
        with pytest.raises(ValueError, match=f"'x' is not in the vocabulary, and neither is the unknown token {unknown!r}"):
            CTCTokenizer({"<pad>": 0}, unk_token=unknown)("x")
    with pytest.raises(ValueError, match="expected audio, text or both, but got neither"):
        ours()


@pytest.mark.parametrize(
    "options, ids",
    [
        (dict(unk_token="|"), [5, 4, 6]),
        (dict(bos_token=None, eos_token=None), [5, 1, 6, 2]),
        (dict(additional_special_tokens=["[X]"]), [5, 7, 6]),
    ],
    ids=["delimiter", "none", "additional"],
)
def test_which_tokens_are_special(tmp_path, options, ids):
    _their_tokenizer(tmp_path, ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "[X]"], **options)
    processor = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    ours = CTCTokenizer.from_pretrained(tmp_path)
    # the delimiter stays, as in 5.x; 4.34.1 leaves it out when it is a special token too
    expected = "A B" if "unk_token" in options else processor.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids, skip_special_tokens=True) == expected
    ours.save_pretrained(tmp_path)
    assert CTCTokenizer.from_pretrained(tmp_path) == ours
    assert copy.deepcopy(ours) == ours == pickle.loads(pickle.dumps(ours))  # after it was used


def test_padding_matches_transformers(tmp_path, speech):
    tokenizer = _their_tokenizer(tmp_path)
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    theirs = transformers.Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)
    ours = HubertProcessor(HubertFeatureExtractor(return_attention_mask=True), CTCTokenizer.from_pretrained(tmp_path))
    features = [{"input_values": ours(waveform).input_values[0]} for waveform in (speech, speech[:5000])]
    labels = [{"input_ids": ours(text=text).input_ids} for text in ("HELLO", "A B C D E")]
    actual = ours.pad(features, labels, padding=True, return_tensors="pt")
    expected = theirs.pad(features, labels=labels, padding=True, return_tensors="pt")
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in actual)
    actual, expected = (processor.pad(labels=labels, return_tensors="pt") for processor in (ours, theirs))
    assert torch.equal(actual.input_ids, expected.input_ids) and torch.equal(actual.attention_mask, expected.attention_mask)
    together = ours([speech], text=["A B"], audio_kwargs={"return_tensors": "pt"})
    assert together.labels == [ours(text="A B").input_ids] and together.input_values.shape == (1, len(speech))
    assert together.to("cpu").labels == together.labels


def test_doubled_letters_survive_and_special_tokens_do_not(tmp_path):
    _their_tokenizer(tmp_path)
    ours = CTCTokenizer.from_pretrained(tmp_path)
    ids = [LARGE_LS960.index(token) for token in ("<s>", "H", "E", "L", "<pad>", "L", "L", "O", "|", "<unk>", "A", "</s>")]
    assert ours.decode(ids, skip_special_tokens=True) == "HELLO A"
    assert ours.decode(ids) == "<s>HELLO <unk>A</s>"


def test_transformers_and_we_read_each_others_files(tmp_path):
    processor = HubertProcessor.from_tokens(LARGE_LS960)
    processor.save_pretrained(tmp_path)
    theirs = transformers.Wav2Vec2Processor.from_pretrained(tmp_path)
    assert theirs.tokenizer.get_vocab() == processor.tokenizer.vocabulary
    assert theirs.feature_extractor.return_attention_mask and theirs.feature_extractor.do_normalize
    resaved = tmp_path / "resaved"
    theirs.save_pretrained(resaved)
    ours = HubertProcessor.from_pretrained(tmp_path)
    assert ours.tokenizer == processor.tokenizer and ours.feature_extractor == processor.feature_extractor
    assert CTCTokenizer.from_pretrained(resaved) == processor.tokenizer


def test_processor_as_newer_transformers_saves_it(tmp_path):
    """transformers 5 keeps the feature extractor's settings in processor_config.json."""
    theirs = transformers.Wav2Vec2Processor(
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False),
        _their_tokenizer(tmp_path),
    )
    folder = tmp_path / "processor"
    theirs.save_pretrained(folder)
    extractor = HubertProcessor.from_pretrained(folder).feature_extractor
    assert extractor.return_attention_mask and not extractor.do_normalize


def test_errors_describe_bad_tokenizer_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no vocab\.json"):
        CTCTokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(CheckpointError, match=r"lacks the pad token '<pad>', .*or pass pad_token= to from_pretrained"):
        CTCTokenizer.from_pretrained(tmp_path)
    assert CTCTokenizer.from_pretrained(tmp_path, pad_token="a").pad_token_id == 0
    (tmp_path / "vocab.json").write_text('{"eng": {"<pad>": 0, "a": 1}, "deu": {"<pad>": 0, "ä": 1}}')
    with pytest.raises(CheckpointError, match="vocabulary per language"):
        CTCTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"target_lang": "deu"}')
    assert CTCTokenizer.from_pretrained(tmp_path).decode([1]) == "ä"
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": "16000"}')
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json of .*: sampling_rate must be int, but is '16000'"):
        HubertFeatureExtractor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="maps 'a' to '1'"):
        CTCTokenizer({"<pad>": 0, "a": "1"})
    (tmp_path / "tokenizer_config.json").write_text('{"target_lang": "deu", "unk_token": null}')
    with pytest.raises(ValueError, match="token id 9, which is not in the vocabulary of 4"):
        CTCTokenizer.from_pretrained(tmp_path).decode([9])

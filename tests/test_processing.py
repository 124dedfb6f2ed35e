"""Waveform normalisation and text against transformers' Wav2Vec2Processor, and the files both read and write."""

import json

import numpy as np
import pytest
import torch
import transformers
from conftest import assert_close

from hubert_fast import HubertProcessor
from hubert_fast.ctc import Token, collapse
from hubert_fast.hub import CheckpointError
from hubert_fast.processing import CTCTokenizer, FeatureExtractor

LARGE_LS960 = "<pad> <s> </s> <unk> | E T A O N I H S R D L U M W C F G Y P B V K ' X J Q Z".split()


def test_collapse_keeps_a_letter_said_twice_and_knows_its_frames():
    assert collapse([0, 5, 5, 0, 5, 7, 7, 7, 0], 0) == [Token(5, 1, 2), Token(5, 4, 4), Token(7, 5, 7)]
    assert collapse([3, 3, 3], 3) == [] and collapse([], 0) == []
    assert collapse([0, 0, 4, 0], 4) == [Token(0, 0, 1), Token(0, 3, 3)]  # the blank need not be 0


@pytest.fixture(params=[True, False], ids=["mask", "no mask"])
def extractors(request, tmp_path):
    options = dict(feature_size=1, sampling_rate=16000, padding_value=0.0, do_normalize=True)
    theirs = transformers.Wav2Vec2FeatureExtractor(**options, return_attention_mask=request.param)
    theirs.save_pretrained(tmp_path)
    return theirs, FeatureExtractor.from_pretrained(tmp_path)


def test_batches_equal_those_of_transformers(extractors, speech):
    theirs, ours = extractors
    waveforms = [speech[:9000], 0.01 * speech[3000:8000] + 0.2, speech[:401]]
    expected = theirs(waveforms, sampling_rate=16000, padding=True, return_tensors="pt")
    found = ours(waveforms, sampling_rate=16000)
    assert found.keys() == expected.keys()
    assert_close(found["input_values"], expected["input_values"], "same graph")
    if "attention_mask" in expected:
        assert torch.equal(found["attention_mask"], expected["attention_mask"].long())


def test_without_normalisation_and_as_one_array(speech):
    extractor = FeatureExtractor(do_normalize=False)
    for one in (speech, [speech], speech.tolist(), torch.from_numpy(speech)):
        assert torch.equal(extractor(one)["input_values"], torch.from_numpy(speech)[None])
    quiet = FeatureExtractor()(np.zeros(500, np.float32))["input_values"]
    assert torch.equal(quiet, torch.zeros(1, 500))


def test_int16_samples_normalise_like_float_ones(speech):
    extractor = FeatureExtractor()
    loud = np.round(speech * 32767).astype(np.int16)
    # 16-bit rounding, about 1e-4 of this waveform's amplitude; the 1e-7 under the root adds as much
    assert torch.allclose(extractor(loud)["input_values"], extractor(speech)["input_values"], atol=2e-3)


def test_what_comes_out_reads_and_moves_as_in_transformers(speech):
    batch = FeatureExtractor(return_attention_mask=True)([speech, speech[:5000]])
    assert batch.input_values is batch["input_values"] and {**batch}.keys() == {"input_values", "attention_mask"}
    moved = batch.to("cpu", torch.float16)
    assert moved.input_values.dtype == torch.float16 and moved.attention_mask.dtype == torch.int64
    assert torch.equal(batch.to("cpu").input_values, batch.input_values)
    with pytest.raises(AttributeError, match="has input_values, attention_mask, and no labels"):
        _ = batch.labels


def test_arguments_written_for_transformers(speech):
    processor = HubertProcessor.from_tokens(LARGE_LS960)
    expected = processor([speech], sampling_rate=16000)["input_values"]
    assert torch.equal(processor([speech], sampling_rate=16000, return_tensors="pt", padding=True)["input_values"], expected)
    with pytest.raises(ValueError, match="return_tensors='pt', but got True and 'tf'"):
        processor([speech], return_tensors="tf")


@pytest.mark.parametrize(
    "waveforms, rate, message",
    [
        (np.zeros(500), 8000, "takes 16000 Hz audio, but got 8000 Hz"),
        ([np.zeros(500), np.zeros((2, 500))], 16000, r"waveform 1 must be 1-D \(mono\), but has shape \[2, 500\]"),
        ([np.zeros(500), np.array([0.0, np.nan])], 16000, "waveform 1 has NaN"),
        ([np.array(["a", "b"])], 16000, "must hold numbers"),
        ([], 16000, "at least one waveform"),
    ],
    ids=["rate", "stereo", "NaN", "text", "nothing"],
)
def test_bad_waveforms(waveforms, rate, message):
    with pytest.raises(ValueError, match=message):
        FeatureExtractor()(waveforms, sampling_rate=rate)


def _their_tokenizer(folder, tokens=LARGE_LS960, **options):
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **options)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize(
    "tokens, options",
    [
        (LARGE_LS960, {}),
        (LARGE_LS960, dict(do_lower_case=True)),
        (["a", "b", " ", "ch", "é", "[PAD]", "[UNK]", "<s>", "</s>"],
         dict(pad_token="[PAD]", unk_token="[UNK]", word_delimiter_token=" ")),
        (["|", "x", "y", "<pad>", "<unk>", "<s>", "</s>"], dict(replace_word_delimiter_char="_")),
    ],
    ids=["large-ls960", "lower case", "blank last, two-letter token", "delimiter character"],
)  # fmt: skip
def test_text_equals_that_of_transformers(tmp_path, tokens, options):
    theirs = _their_tokenizer(tmp_path, tokens, **options)
    ours = CTCTokenizer.from_pretrained(tmp_path)
    assert ours.pad_token_id == theirs.pad_token_id
    rng = np.random.default_rng(0)
    special = set(theirs.all_special_ids) - {theirs.pad_token_id}
    ids = [index for index in range(len(tokens)) if index not in special]
    for length in (0, 1, 5, 80, 80, 80):
        # half blanks, as in real output; special tokens are compared below
        row = np.where(rng.random(length) < 0.5, ours.pad_token_id, rng.choice(ids, length))
        # transformers also tidies spaces before punctuation, unless told not to: see the README
        assert ours.decode(row) == theirs.decode(row, clean_up_tokenization_spaces=False)


def test_doubled_letters_survive_and_special_tokens_do_not(tmp_path):
    _their_tokenizer(tmp_path)
    ours = CTCTokenizer.from_pretrained(tmp_path)
    ids = [LARGE_LS960.index(token) for token in ("<s>", "H", "E", "L", "<pad>", "L", "L", "O", "|", "<unk>", "A", "</s>")]
    assert ours.decode(ids) == "HELLO A"
    assert ours.decode(ids, skip_special_tokens=False) == "<s>HELLO <unk>A</s>"


def test_files_go_both_ways(tmp_path):
    processor = HubertProcessor.from_tokens(LARGE_LS960)
    processor.save_pretrained(tmp_path)
    theirs = transformers.Wav2Vec2Processor.from_pretrained(tmp_path)
    assert theirs.tokenizer.get_vocab() == processor.tokenizer.vocabulary
    assert theirs.feature_extractor.return_attention_mask and theirs.feature_extractor.do_normalize
    again = tmp_path / "again"
    theirs.save_pretrained(again)
    ours = HubertProcessor.from_pretrained(tmp_path)
    assert ours.tokenizer == processor.tokenizer and ours.feature_extractor == processor.feature_extractor
    assert CTCTokenizer.from_pretrained(again) == processor.tokenizer


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


def test_tokenizer_file_troubles(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no vocab\.json"):
        CTCTokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(ValueError, match="lacks the pad token '<pad>'"):
        CTCTokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"eng": {"<pad>": 0, "a": 1}, "deu": {"<pad>": 0, "ä": 1}}')
    with pytest.raises(CheckpointError, match="vocabulary per language"):
        CTCTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"target_lang": "deu"}')
    assert CTCTokenizer.from_pretrained(tmp_path).decode([1]) == "ä"
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": "16000"}')
    with pytest.raises(CheckpointError, match=r"sampling_rate in preprocessor_config\.json .* must be int, is '16000'"):
        FeatureExtractor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="maps 'a' to '1'"):
        CTCTokenizer({"<pad>": 0, "a": "1"})
    with pytest.raises(ValueError, match="token id 9 is not in the vocabulary of 2"):
        CTCTokenizer.from_pretrained(tmp_path).decode([9])

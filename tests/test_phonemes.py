"""Compare phoneme tokenizers with transformers' Wav2Vec2PhonemeCTCTokenizer: text, offsets, words and files."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubert_fast import HubertProcessor, ctc, demo
from hubert_fast.cli import main
from hubert_fast.ctc import greedy_decode
from hubert_fast.tokenizer import CTCTokenizer
from hubert_fast.transcribe import Transcriber

TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", "a", "oʊ", "ts", "ə", "n̩", " "]
BACKENDS = ["python", *([] if ctc.why_not_built() else ["c++"])]
OPTIONS = {
    "no delimiter": dict(word_delimiter_token=None),
    "delimiter": dict(word_delimiter_token="|"),
    "another pad": dict(pad_token="|", word_delimiter_token=None),
    "a phone delimiter that only phonemizer uses": dict(phone_delimiter_token="-"),
    "lower case, which it does not know": dict(do_lower_case=True),
}


@pytest.fixture(scope="module", params=OPTIONS, ids=list(OPTIONS))
def tokenizers(request, tmp_path_factory):
    """Return transformers' tokenizer, and ours loaded from its files."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps({token: id for id, token in enumerate(TOKENS)}))
    options = {"do_phonemize": False, **OPTIONS[request.param]}
    theirs = transformers.Wav2Vec2PhonemeCTCTokenizer(str(folder / "vocab.json"), **options)
    theirs.save_pretrained(folder)
    return theirs, CTCTokenizer.from_pretrained(folder)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_texts_and_offsets_match_transformers(tokenizers, data):
    theirs, ours = tokenizers
    ids = st.one_of(st.just(ours.pad_token_id), st.integers(-2, len(TOKENS) + 3))  # some have no token
    length = data.draw(st.integers(1, 30))
    rows = data.draw(st.lists(st.lists(ids, min_size=length, max_size=length), min_size=1, max_size=3))
    group = data.draw(st.booleans())
    options = dict(group_tokens=group, output_char_offsets=True)
    expected = theirs.batch_decode(rows, **options, clean_up_tokenization_spaces=False)
    for batch in (rows, torch.tensor(rows), np.array(rows)):
        actual = ours.batch_decode(batch, **options, output_word_offsets=True)
        assert actual.text == expected["text"] and actual.char_offsets == expected["char_offsets"]
        words = [[{"word": phone.pop("char"), **phone} for phone in row] for row in actual.char_offsets]
        assert actual.word_offsets == words, "every phone is a word"
    assert ours.batch_decode(rows, group_tokens=group) == expected["text"]
    blanked = [[ours.pad_token_id if id in ours.special_ids or id not in ours.tokens else id for id in row] for row in rows]
    skipped = theirs.batch_decode(blanked, group_tokens=group, clean_up_tokenization_spaces=False)
    assert ours.batch_decode(rows, skip_special_tokens=True, group_tokens=group) == skipped
    assert HubertProcessor(None, ours).batch_decode(rows, group_tokens=group) == expected["text"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_phone_is_a_word_with_times(tokenizers, backend):
    _, ours = tokenizers
    blank = ours.pad_token_id
    frames = np.array([5, 5, blank, 5, 6, 6, 6, 1, 7, 99, blank, 8, 5])
    log_probs = np.log(np.linspace(0.3, 0.9, len(frames))).astype(np.float32)
    options = dict(blank_id=blank, log_probs=log_probs, backend=backend)
    (actual,) = greedy_decode(frames, [0, len(frames)], ours, timestamps="word", **options)
    assert actual.tokens is None
    expected = [("a", 0, 2), ("a", 3, 4), ("oʊ", 4, 7), ("ts", 8, 9), ("ə", 11, 12), ("a", 12, 13)]
    assert [(word.word, round(word.start_seconds / 0.02), round(word.end_seconds / 0.02)) for word in actual.words] == expected
    assert actual.text == "a a oʊ ts ə a"
    probabilities = [np.exp(log_probs[begin:end].mean()) for _, begin, end in expected]
    np.testing.assert_allclose([word.confidence for word in actual.words], probabilities, rtol=1e-6)
    (with_tokens,) = greedy_decode(frames, [0, len(frames)], ours, timestamps="token", **options)
    assert with_tokens.words == actual.words and [token.id for token in with_tokens.tokens] == [5, 5, 6, 7, 8, 5]


def test_both_backends_agree_on_random_frames(tokenizers):
    if len(BACKENDS) < 2:
        pytest.skip(f"the C++ extension is not built: {ctc.why_not_built()}")
    _, ours = tokenizers
    rng = np.random.default_rng(2)
    for dtype in (np.int64, np.int32, np.int16, np.uint8):
        frames = rng.integers(0 if dtype == np.uint8 else -3, len(TOKENS) + 3, 600).astype(dtype)
        log_probs = np.log(rng.random(600)).astype(np.float32)
        bounds = np.sort(np.concatenate([[0, 600], rng.integers(0, 600, 20)]))
        first, second = (
            greedy_decode(
                frames, bounds, ours, blank_id=ours.pad_token_id, log_probs=log_probs, timestamps="token", backend=backend
            )
            for backend in BACKENDS
        )
        assert str(first) == str(second) and any(transcript.words for transcript in first)


def test_labels_of_phones_match_transformers(tokenizers):
    theirs, ours = tokenizers
    for text in ("a ts ə", "", " a  oʊ ", "a q ə", "a ts | ə", "<s> a </s>"):
        assert ours(text)["input_ids"] == theirs(text).input_ids, text


def test_text_that_needs_phonemizing_is_refused(tmp_path):
    ours = CTCTokenizer({token: id for id, token in enumerate(TOKENS)}, tokenizer_class="Wav2Vec2PhonemeCTCTokenizer")
    with pytest.raises(ValueError, match=r"do_phonemize is True, .* set do_phonemize to False and give phones with spaces"):
        ours("hello")


def test_saved_tokenizers_load_in_transformers_and_here(tokenizers, tmp_path):
    theirs, ours = tokenizers
    ours.save_pretrained(tmp_path)
    reloaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(reloaded) is type(theirs) and reloaded.get_vocab() == theirs.get_vocab()
    for name in ("phone_delimiter_token", "word_delimiter_token", "do_phonemize", "phonemizer_lang", "phonemizer_backend"):
        assert getattr(reloaded, name) == getattr(theirs, name) == getattr(ours, name), name
    row = [5, 5, 0, 4, 6, 7, 3, 12]
    assert reloaded.decode(row) == theirs.decode(row) == ours.decode(row)
    assert CTCTokenizer.from_pretrained(tmp_path) == ours


def test_tokenizer_class_may_be_named_in_config_json_alone(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({token: id for id, token in enumerate(TOKENS)}))
    (tmp_path / "config.json").write_text('{"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"}')
    ours = CTCTokenizer.from_pretrained(tmp_path)
    assert ours.is_of_phones and ours.word_delimiter_token is None and ours.decode([5, 4, 6]) == "a | oʊ"


def test_unknown_tokenizer_classes_are_logged(tmp_path, caplog):
    (tmp_path / "vocab.json").write_text(json.dumps({token: id for id, token in enumerate(TOKENS)}))
    for name, n_messages in (("Wav2Vec2CTCTokenizer", 0), ("Wav2Vec2Tokenizer", 0), (None, 0), ("WhisperTokenizer", 1)):
        caplog.clear()
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
        assert CTCTokenizer.from_pretrained(tmp_path).decode([5, 4, 7]) == "a ts"
        assert len(caplog.records) == n_messages
    assert "tokenizer_class is WhisperTokenizer, which is unknown: decoding as Wav2Vec2CTCToken" in caplog.text


def test_letters_without_a_word_delimiter(tmp_path):
    """A null delimiter in the file means none, not the default."""
    (tmp_path / "vocab.json").write_text(json.dumps({token: id for id, token in enumerate(TOKENS[:8])}))
    theirs = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), word_delimiter_token=None)
    (tmp_path / "tokenizer_config.json").write_text('{"word_delimiter_token": null}')
    ours = CTCTokenizer.from_pretrained(tmp_path)
    expected = theirs.decode([5, 4, 7], output_word_offsets=True)
    actual = ours.decode([5, 4, 7], output_word_offsets=True)
    assert actual.text == expected["text"] == "a|ts" and actual.word_offsets == expected["word_offsets"]
    assert ours("a|")["input_ids"] == [5, 4]


def test_the_command_line_writes_phones_with_spaces(tmp_path, capsys):
    """The demo's letters serve as phones, each a word with its time."""
    folder = tmp_path / "model"
    shutil.copytree(demo.MODEL, folder, ignore=shutil.ignore_patterns("recordings", "*.py"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    recording = demo.recordings()[0].path
    letters = Transcriber.from_pretrained(folder, device="cpu", dtype="float32").transcribe_file(recording)
    for delimiter in (None, "|"):
        config |= {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer", "phone_delimiter_token": " ", "do_phonemize": False}
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"word_delimiter_token": delimiter}))
        out = tmp_path / f"{delimiter}.jsonl"
        command = [
            "transcribe",
            str(recording),
            "--model",
            str(folder),
            "-o",
            str(out),
            "--device",
            "cpu",
            "--dtype",
            "float32",
        ]
        assert main(command) == 0
        row = json.loads(out.read_text())
        between = [] if delimiter else ["|"]
        expected = " ".join(phone for letter in letters.text for phone in (between if letter == " " else [letter]))
        assert row["text"] == expected and [word["word"] for word in row["words"]] == row["text"].split()
        starts = [word["start_seconds"] for word in row["words"]]
        assert starts == sorted(starts) and starts[0] == round(letters.words[0].start_seconds, 3)
    capsys.readouterr()

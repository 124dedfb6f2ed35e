"""Compare the tokenizer's methods and attributes with transformers' tokenizers of letters and of phones."""

import copy
import inspect
import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_processor_calls import assert_same, outcome

from hubert_fast import CTCTokenizer
from hubert_fast.hub import CheckpointError

RECIPE = dict(unk_token="[UNK]", pad_token="[PAD]", word_delimiter_token="|")  # of Hugging Face's page on fine-tuning
VOCABULARIES = {
    "recipe": (["'", "a", "b", "c", "e", "|", "[UNK]", "[PAD]"], RECIPE),
    "large": ("<pad> <s> </s> <unk> | E T A O '".split(), {}),
    "lower case": ("<pad> <s> </s> <unk> | E T A O '".split(), dict(do_lower_case=True)),
    "several letters": (["<pad>", "|", "c", "h", "ch", "a", "cha", "("], {}),
    "nothing special": (["a", "b", "|"], {}),
    "sides": (["<pad>", "a", "b", "|"], dict(padding_side="left", truncation_side="left", model_max_length=6)),
    "more special tokens": (["<pad>", "a", "b", "|", "[X]"], dict(additional_special_tokens=["[X]", "[Y]"])),
    "clean": (["<pad>", "a", "b", "|", ".", "'", "s"], dict(clean_up_tokenization_spaces=True)),
    "phones": (["<pad>", "a", "oʊ", "ts", "|"], dict(do_phonemize=False)),
    "phones, delimiter": (["<pad>", "a", "oʊ", "ts", "|"], dict(do_phonemize=False, word_delimiter_token="|")),
}
PHONES = "Wav2Vec2PhonemeCTCTokenizer"


def write_vocabulary(folder, tokens):
    path = folder / "vocab.json"
    path.write_text(json.dumps({token: id for id, token in enumerate(tokens)}))
    return str(path)


def both(folder, tokens, options):
    """Return transformers' tokenizer and ours, made from the same file with the same arguments."""
    path, options = write_vocabulary(folder, tokens), {"clean_up_tokenization_spaces": False, **options}
    if "do_phonemize" in options:
        return getattr(transformers, PHONES)(path, **options), CTCTokenizer(path, tokenizer_class=PHONES, **options)
    return transformers.Wav2Vec2CTCTokenizer(path, **options), CTCTokenizer(path, **options)


@pytest.fixture(scope="module", params=VOCABULARIES, ids=list(VOCABULARIES))
def tokenizers(request, tmp_path_factory):
    return both(tmp_path_factory.mktemp("tokenizer"), *VOCABULARIES[request.param])


def without_delimiter(tokens, ours):
    """transformers 5 counts the word delimiter among the special tokens, 4.34.1 and we do not."""
    return [token for token in tokens if token != ours.word_delimiter_token]


def test_attributes_match_transformers(tokenizers):
    theirs, ours = tokenizers
    assert ours.get_vocab() == theirs.get_vocab() and len(ours) == len(theirs) and ours.vocab_size == theirs.vocab_size
    names = "pad_token unk_token bos_token eos_token word_delimiter_token padding_side truncation_side model_max_length".split()
    names += ["pad_token_id", "unk_token_id", "bos_token_id", "eos_token_id", "word_delimiter_token_id", "model_input_names"]
    names += ["clean_up_tokenization_spaces"]
    for name in names:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.all_special_tokens == without_delimiter(theirs.all_special_tokens, ours)
    assert ours.all_special_ids == theirs.convert_tokens_to_ids(ours.all_special_tokens)
    maps = [{name: token for name, token in tokenizer.special_tokens_map.items() if token != "|"} for tokenizer in tokenizers]
    maps[0].setdefault("additional_special_tokens", maps[1].get("additional_special_tokens"))  # transformers 5 leaves them out
    assert {**maps[1], "additional_special_tokens": maps[1].get("additional_special_tokens")} == maps[0]
    assert ours.get_added_vocab() == ours.added_tokens_encoder
    theirs_added = {token: id for token, id in theirs.added_tokens_encoder.items() if token != ours.word_delimiter_token}
    assert ours.added_tokens_encoder == theirs_added
    for id, token in ours.added_tokens_decoder.items():
        expected = theirs.added_tokens_decoder[id]
        assert str(token) == str(expected) and (token.lstrip, token.rstrip) == (expected.lstrip, expected.rstrip)


CALLS = dict(
    padding=st.sampled_from([False, True, "longest", "max_length", "do_not_pad"]),
    truncation=st.sampled_from([None, True, False, "longest_first", "only_first", "do_not_truncate"]),
    max_length=st.none() | st.integers(1, 12),
    pad_to_multiple_of=st.none() | st.integers(1, 5),
    return_attention_mask=st.sampled_from([None, True, False]),
    return_tensors=st.sampled_from([None, "np", "pt"]),
    add_special_tokens=st.booleans(),
    padding_side=st.sampled_from([None, "left", "right"]),
)
# transformers 4.34.1 does not have it
TOO_NEW = {"padding_side"} - inspect.signature(transformers.PreTrainedTokenizer.pad).parameters.keys()
NO_FIXTURE_CHECK = dict(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def texts_of(data, ours):
    """Draw texts of the tokenizer's letters, unknown ones, special tokens and spaces."""
    tokens = st.sampled_from([*ours.get_vocab(), " ", " ", "x", "É"])
    text = st.lists(tokens, min_size=1, max_size=12).map((" " if ours.is_of_phones else "").join)
    return data.draw(text | st.lists(text, min_size=1, max_size=3))


def lacks_ids(theirs, text):
    """Return whether transformers gives a token of a text no id: `None` where the vocabulary lacks `unk_token`, too."""
    return None in theirs.convert_tokens_to_ids(theirs.tokenize(text))


@settings(max_examples=40, **NO_FIXTURE_CHECK)
@given(data=st.data())
def test_calls_match_transformers(tokenizers, data):
    theirs, ours = tokenizers
    text = texts_of(data, ours)
    left_out = {*data.draw(st.sets(st.sampled_from(sorted(CALLS)), max_size=6)), *TOO_NEW}
    options = {name: data.draw(values) for name, values in CALLS.items() if name not in left_out}
    expected, their_error = outcome(theirs, text, **options)
    actual, error = outcome(ours, text, **options)
    if any(lacks_ids(theirs, entry) for entry in ([text] if isinstance(text, str) else text)):
        assert "is not in the vocabulary, and neither is the unknown token" in str(error)
        return
    is_empty = not all(theirs.tokenize(entry) for entry in ([text] if isinstance(text, str) else text))
    if their_error is not None:
        assert isinstance(error, ValueError), f"theirs: {their_error}, ours: {error}, {actual}"
    elif not (is_empty and options.get("return_tensors")):  # theirs are then floating point
        assert error is None, error
        assert_same(actual, {name: expected[name] for name in expected})


@settings(max_examples=40, **NO_FIXTURE_CHECK)
@given(data=st.data())
def test_tokens_of_text_match_transformers(tokenizers, data):
    theirs, ours = tokenizers
    text = texts_of(data, ours)
    text = text if isinstance(text, str) else text[0]
    tokens = ours.tokenize(text)
    assert tokens == theirs.tokenize(text)
    if lacks_ids(theirs, text):
        with pytest.raises(ValueError, match="is not in the vocabulary, and neither is the unknown token"):
            ours.convert_tokens_to_ids(tokens)
        return
    assert ours.encode(text) == theirs.encode(text)
    assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert [ours.convert_tokens_to_ids(token) for token in tokens] == [theirs.convert_tokens_to_ids(token) for token in tokens]


@settings(max_examples=40, **NO_FIXTURE_CHECK)
@given(data=st.data())
def test_decoding_matches_transformers(tokenizers, data):
    theirs, ours = tokenizers
    ids = data.draw(st.lists(st.just(ours.pad_token_id) | st.integers(0, len(ours) + 2), min_size=1, max_size=25))
    options = {name: data.draw(st.booleans()) for name in ("group_tokens", "spaces_between_special_tokens")}
    options |= {"output_char_offsets": data.draw(st.booleans())}
    options |= {} if ours.is_of_phones else {"output_word_offsets": data.draw(st.booleans())}
    options |= {"filter_word_delimiter_token": data.draw(st.booleans())} if ours.is_of_phones else {}
    clean = {"clean_up_tokenization_spaces": data.draw(st.sampled_from([None, True, False]))}
    for values in (ids, np.array(ids), torch.tensor(ids)):
        expected, actual = theirs.decode(values, **options, **clean), ours.decode(values, **options, **clean)
        if isinstance(expected, str):
            assert actual == expected
        else:
            assert {**actual} == {name: rows for name, rows in expected.items() if rows is not None}
    tokens = theirs.convert_ids_to_tokens(ids)
    assert ours.convert_ids_to_tokens(ids) == ours.convert_ids_to_tokens(torch.tensor(ids)) == tokens
    assert [ours.convert_ids_to_tokens(id) for id in ids] == tokens
    assert ours.convert_tokens_to_string(tokens, **options) == theirs.convert_tokens_to_string(tokens, **options)
    assert ours.decode(ids[0]) == theirs.decode(ids[:1])
    special = {*ours.all_special_ids}
    kept = [token for id, token in zip(ids, tokens) if id not in special]
    assert ours.convert_ids_to_tokens(ids, skip_special_tokens=True) == kept


def test_nothing_becomes_an_empty_string(tokenizers):
    theirs, ours = tokenizers
    if not ours.is_of_phones:
        assert ours.convert_tokens_to_string([]) == theirs.convert_tokens_to_string([])
    assert ours.convert_tokens_to_string([])["text"] == "" == ours.decode([])


@settings(max_examples=40, **NO_FIXTURE_CHECK)
@given(data=st.data())
def test_padding_matches_transformers(tokenizers, data):
    theirs, ours = tokenizers
    names = ("padding", "max_length", "pad_to_multiple_of", "return_attention_mask", "return_tensors", "padding_side")
    left_out = {*data.draw(st.sets(st.sampled_from(names), max_size=5)), *TOO_NEW}
    options = {name: data.draw(CALLS[name]) for name in names if name not in left_out}
    rows = data.draw(st.lists(st.lists(st.integers(0, len(ours) - 1), min_size=1, max_size=7), min_size=1, max_size=3))
    convert = data.draw(st.sampled_from([list, np.array, torch.tensor]))
    features = [{"input_ids": convert(row)} for row in rows]
    if options.get("return_attention_mask") is not False and data.draw(st.booleans()):
        features = [{**row, "attention_mask": convert([1] * len(row["input_ids"]))} for row in features]
    whole = {name: [row[name] for row in features] for name in features[0]}
    alone = [] if convert is np.array else [{name: column[0] for name, column in whole.items()}]  # theirs take no array
    for values in (features, whole, *alone):
        expected, their_error = outcome(theirs.pad, copy.copy(values), **options)  # theirs change what they are given
        actual, error = outcome(ours.pad, values, **options)
        if their_error is None:
            assert error is None, error
            assert_same(actual, {name: expected[name] for name in expected})
        else:
            assert isinstance(error, ValueError), f"theirs: {their_error}, ours: {error}, {actual}"


def test_added_tokens_match_transformers(tmp_path):
    for name, (tokens, options) in VOCABULARIES.items():
        theirs, ours = both(tmp_path, tokens, options)
        for new in (["xy", "a"], "zz", [transformers.AddedToken("[L]", lstrip=True, normalized=False)], [], None):
            assert ours.add_tokens(new) == theirs.add_tokens(new), name
        assert ours.add_tokens(["[S]"], special_tokens=True) == theirs.add_tokens(["[S]"], special_tokens=True) == 1
        assert (
            ours.all_special_tokens == without_delimiter(theirs.all_special_tokens, ours) and "[S]" in ours.all_special_tokens
        )
        for special in ({"additional_special_tokens": ["[Z]"]}, {"pad_token": "[P]", "bos_token": "a"}, {}):
            assert ours.add_special_tokens(special) == theirs.add_special_tokens(special), name
            assert ours.all_special_tokens == without_delimiter(theirs.all_special_tokens, ours)
        assert len(ours) == len(theirs) and ours.get_vocab() == theirs.get_vocab() and ours.vocab_size == len(tokens)
        assert ours.pad_token_id == theirs.pad_token_id == ours.get_vocab()["[P]"]
        for text in ("xy a axyb [S]zz", "a  [L] zz[Z] xyzz", "[P]a[UNK]"):
            if TOO_NEW and ours.do_lower_case:
                continue  # transformers 4.34.1 lowers texts before it looks for added tokens
            assert ours.tokenize(text) == theirs.tokenize(text), (name, text)
            if not lacks_ids(theirs, text):
                assert ours(text).input_ids == theirs(text).input_ids, (name, text)
        ids = [*range(len(ours))]
        assert ours.decode(ids, clean_up_tokenization_spaces=False) == theirs.decode(ids, clean_up_tokenization_spaces=False)
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)


def test_more_special_tokens_are_kept_on_request():
    tokenizer = CTCTokenizer({"<pad>": 0, "a": 1})
    assert tokenizer.add_special_tokens({"extra_special_tokens": ["[A]"]}) == 1
    assert tokenizer.add_special_tokens({"additional_special_tokens": ["[B]"]}, replace_additional_special_tokens=False) == 1
    assert tokenizer.additional_special_tokens == ["[A]", "[B]"] and tokenizer.additional_special_tokens_ids == [5, 6]
    assert tokenizer.decode([1, 5, 1], skip_special_tokens=True) == "aa" and tokenizer.decode([1, 5]) == "a[A]"


def test_special_tokens_are_set_by_name_and_by_id():
    tokenizer = CTCTokenizer({"<pad>": 0, "a": 1, "_": 2, "|": 3, "b": 4})
    assert tokenizer.decode([1, 2, 1, 3, 4]) == "a_a b"
    tokenizer.pad_token = "_"
    assert tokenizer.pad_token_id == 2 and tokenizer.decode([1, 2, 1, 3, 4]) == "aa b"
    tokenizer.pad_token_id, tokenizer.word_delimiter_token_id = 0, 4
    assert tokenizer.pad_token == "<pad>" and tokenizer.word_delimiter_token == "b" and tokenizer.decode([1, 4, 3]) == "a |"
    tokenizer.unk_token = None
    assert tokenizer.unk_token_id is None and "<unk>" not in tokenizer.all_special_tokens
    with pytest.raises(ValueError, match="pad_token must be in the vocabulary, but '<x>' is not: add_special_tokens adds it"):
        tokenizer.pad_token = "<x>"
    with pytest.raises(ValueError, match="pad_token must be the token that is CTC's blank, but is None"):
        tokenizer.pad_token = None
    with pytest.raises(ValueError, match="bos_token_id must be the id of a token, but is 99"):
        tokenizer.bos_token_id = 99


def test_a_vocabulary_per_language(tmp_path):
    nested = {"eng": {"<pad>": 0, "a": 1}, "deu": {"<pad>": 0, "ä": 1}}
    (tmp_path / "vocab.json").write_text(json.dumps(nested))
    theirs = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), target_lang="deu", word_delimiter_token=None)
    for ours in (
        CTCTokenizer(nested, target_lang="deu", word_delimiter_token=None),
        CTCTokenizer.from_pretrained(tmp_path, target_lang="deu", word_delimiter_token=None),
    ):
        assert ours.get_vocab() == theirs.get_vocab() and ours.decode([1]) == theirs.decode([1]) == "ä"
    with pytest.raises(ValueError, match=r"vocabulary per language \(eng, deu\): target_lang is 'fra'"):
        CTCTokenizer(tmp_path / "vocab.json", target_lang="fra")


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(is_split_into_words=True), ValueError, "is_split_into_words=True is not supported, .*: join the words"),
        (dict(text_pair="B"), TypeError, "text_pair"),
        (dict(stride=2), TypeError, "stride"),
        (dict(return_offsets_mapping=True), TypeError, "return_offsets_mapping"),
        (dict(truncation="only_second"), ValueError, "truncation must be True, False or .*, but is 'only_second'"),
        (dict(padding_side="top"), ValueError, "padding_side must be 'right' or 'left', but is 'top'"),
        (dict(return_tensors="jax"), ValueError, "return_tensors must be 'pt', 'tf', 'np' or None"),
    ],
    ids=str,
)
def test_calls_that_are_not_supported_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        CTCTokenizer({"<pad>": 0, "A": 1, "B": 2, "|": 3})(["A B"], **options)


def test_values_that_are_not_supported_are_refused(tmp_path):
    tokenizer = CTCTokenizer({"<pad>": 0, "A": 1, "B": 2, "|": 3})
    for text in (3, ["A", 3], [["A"]], None):
        with pytest.raises(ValueError, match="text must be a text or a list of texts"):
            tokenizer(text)
    for encode in (tokenizer.tokenize, tokenizer.encode):
        with pytest.raises(ValueError, match=r"expected one text, but got \['A', 'B'\] \(list\): call the tokenizer"):
            encode(["A", "B"])
    with pytest.raises(ValueError, match=r"must be integers \[B, T\], but are float32 \[1, 4, 9\]: pass logits.argmax\(-1\)"):
        tokenizer.batch_decode(torch.zeros(1, 4, 9))
    with pytest.raises(ValueError, match="filter_word_delimiter_token=False is for tokenizers of phones"):
        tokenizer.decode([1], filter_word_delimiter_token=False)
    with pytest.raises(TypeError, match="beams"):
        tokenizer.decode([1], beams=3)
    with pytest.raises(TypeError, match="beams"):
        tokenizer.batch_decode([[1]], beams=3)
    with pytest.raises(ValueError, match="input_ids have different lengths, which do not fit one tensor: pass padding=True"):
        tokenizer(["A", "AB"], return_tensors="pt")
    with pytest.raises(ValueError, match="only input_ids and attention_mask can be padded, but got also labels"):
        tokenizer.pad({"input_ids": [[1]], "labels": [[1]]})
    with pytest.raises(ValueError, match="at least one sequence of ids"):
        tokenizer.pad({"input_ids": []})
    with pytest.raises(ValueError, match="each attention_mask must have the length of its input_ids"):
        tokenizer.pad({"input_ids": [[1]], "attention_mask": [[1, 1]]})
    with pytest.raises(ValueError, match=r"single_word=True, which is not supported"):
        tokenizer.add_tokens(transformers.AddedToken("x", single_word=True))
    with pytest.raises(TypeError, match="must be text or an AddedToken, but is 3"):
        tokenizer.add_tokens([3])
    with pytest.raises(ValueError, match="but no cls_token"):
        tokenizer.add_special_tokens({"cls_token": "[CLS]"})
    for name in ("sep_token", "vocab", "max_len"):
        with pytest.raises(TypeError, match=name):
            CTCTokenizer({"<pad>": 0}, **{name: "x"})
    with pytest.raises(TypeError, match="needs vocabulary"):
        CTCTokenizer()
    with pytest.raises(ValueError, match="tokenizer_class must be"):
        CTCTokenizer({"<pad>": 0}, tokenizer_class="WhisperTokenizer")
    with pytest.raises(CheckpointError, match=r"no\.json cannot be read"):
        CTCTokenizer(tmp_path / "no.json")

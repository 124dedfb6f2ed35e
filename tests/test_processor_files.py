"""Compare what processors read and write with transformers', and the options of `from_pretrained` that replace the files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from test_processor_calls import AUDIO, assert_same
from test_processor_tokenizer import PHONES, VOCABULARIES, both, without_delimiter, write_vocabulary

from hubert_fast import CTCTokenizer, HubertFeatureExtractor, HubertProcessor, demo
from hubert_fast.hub import CheckpointError


@pytest.fixture
def folder(tmp_path):
    """Return a copy of the demo's files without weights."""
    shutil.copytree(demo.MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("recordings", "*.py", "*.safetensors"))
    return tmp_path / "model"


OVERRIDES = [
    dict(do_lower_case=True),
    dict(return_attention_mask=False),
    dict(do_normalize=False, padding_value=-1.0),
    dict(pad_token="E", unk_token="T"),
    dict(bos_token=None, eos_token=None),
    dict(replace_word_delimiter_char="_"),
    dict(additional_special_tokens=["A", "[X]"]),
    dict(model_max_length=5, truncation_side="left", clean_up_tokenization_spaces=True),
]


@pytest.mark.parametrize("options", OVERRIDES, ids=str)
def test_options_replace_the_values_of_files(folder, options, tmp_path):
    (folder / "special_tokens_map.json").unlink()  # it defeats None as an option in transformers, but not here
    theirs = transformers.Wav2Vec2Processor.from_pretrained(folder, **options)
    ours = HubertProcessor.from_pretrained(folder, **options)
    of_extractor = {name for name in options if name in HubertFeatureExtractor.__dataclass_fields__}
    for name, value in options.items():
        part = ours.feature_extractor if name in of_extractor else ours.tokenizer
        assert getattr(part, name) == value, name
    of_audio, of_text = dict(sampling_rate=16000, padding=True, return_tensors="pt"), dict(truncation=True, padding=True)
    texts, ids = ["stop STOP IT", "E A[X]T"], [5, 5, 0, 5, 6, 3, 4, 7, 1, 27, 32]
    for _ in range(2):  # as made, and as saved and loaded
        # transformers 5 has its processor read options of calls, such as return_attention_mask, from the tokenizer's files, too
        expected = theirs.feature_extractor(AUDIO, **of_audio)
        assert_same(ours(AUDIO, **of_audio), {name: expected[name] for name in expected})
        expected = theirs.tokenizer(texts, **of_text)
        assert_same(ours(text=texts, **of_text), {name: expected[name] for name in expected})
        assert ours.decode(ids) == theirs.decode(ids) and len(ours.tokenizer) == len(theirs.tokenizer)
        assert ours.tokenizer.all_special_tokens == without_delimiter(theirs.tokenizer.all_special_tokens, ours.tokenizer)
        before = ours.tokenizer
        ours.save_pretrained(tmp_path / "saved")
        theirs = transformers.Wav2Vec2Processor.from_pretrained(tmp_path / "saved")
        ours = HubertProcessor.from_pretrained(tmp_path / "saved")
        assert ours.tokenizer == before


def test_each_class_takes_the_options_of_its_own_files(folder):
    assert HubertFeatureExtractor.from_pretrained(folder, do_normalize=False) == HubertFeatureExtractor(
        do_normalize=False, return_attention_mask=True
    )
    assert CTCTokenizer.from_pretrained(str(folder), do_lower_case=True).decode([5, 4, 6]) == "e t"
    assert HubertProcessor.from_pretrained(pretrained_model_name_or_path=folder, local_files_only=True).decode([5]) == "E"
    (folder / "sub").mkdir()
    for path in folder.glob("*.json"):
        path.rename(folder / "sub" / path.name)
    assert HubertProcessor.from_pretrained(folder, subfolder="sub").feature_extractor.return_attention_mask


@pytest.mark.parametrize(
    "loader, options, named",
    [
        (HubertProcessor, dict(do_lowercase=True), "do_lowercase"),
        (HubertProcessor, dict(use_fast=False), "use_fast"),
        (HubertFeatureExtractor, dict(do_lower_case=True), "do_lower_case"),
        (HubertFeatureExtractor, dict(return_unused_kwargs=True), "return_unused_kwargs"),
        (CTCTokenizer, dict(do_normalize=True), "do_normalize"),
        (CTCTokenizer, dict(vocabulary={"a": 0}), "vocabulary"),
    ],
    ids=str,
)
def test_unknown_options_are_named(folder, loader, options, named):
    with pytest.raises(
        TypeError, match=rf"{loader.__name__}\.from_pretrained got unknown options: {named}\. It takes .*revision"
    ):
        loader.from_pretrained(folder, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(pad_token=None), "pad_token must be the token that is CTC's blank, but is None"),
        (dict(padding_side="left"), "padding_side must be 'right' for HuBERT models"),
        (dict(sampling_rate="16000"), "sampling_rate must be int, but is '16000'"),
        (dict(truncation_side="top"), "truncation_side must be 'right' or 'left', but is 'top'"),
    ],
    ids=str,
)
def test_values_that_are_not_supported_are_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        HubertProcessor.from_pretrained(folder, **options)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_tokenizers_survive_both_libraries(name, tmp_path):
    theirs, ours = both(tmp_path, *VOCABULARIES[name])
    for tokenizer in (theirs, ours):
        tokenizer.add_tokens(["xy"])
        tokenizer.add_special_tokens({"additional_special_tokens": ["[Z]"]})
    ids = [*range(len(theirs))]
    text = "a xy a[Z]" if ours.is_of_phones else "xya [Z]a"
    for saved in (theirs, ours):
        folder = tmp_path / type(saved).__name__
        saved.save_pretrained(folder)
        for loaded in (CTCTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)):
            assert loaded.get_vocab() == theirs.get_vocab() and len(loaded) == len(theirs)
            assert loaded.vocab_size == theirs.vocab_size and loaded.pad_token_id == theirs.pad_token_id
            assert without_delimiter(loaded.all_special_tokens, ours) == ours.all_special_tokens
            assert loaded.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
            assert loaded(text).input_ids == theirs(text).input_ids and loaded.tokenize(text) == theirs.tokenize(text)
            assert loaded.padding_side == ours.padding_side and loaded.truncation_side == ours.truncation_side
            assert loaded.clean_up_tokenization_spaces == ours.clean_up_tokenization_spaces
            assert loaded.model_max_length == ours.model_max_length
        assert CTCTokenizer.from_pretrained(folder) == ours


def values_of(extractor):
    """Return what transformers' feature extractor saves, without the name of its processor."""
    return {name: value for name, value in extractor.to_dict().items() if not name.endswith("processor_class")}


def test_the_recipe_for_a_new_vocabulary(tmp_path):
    """Hugging Face's page on fine-tuning: a vocabulary file, a processor of its parts, an output layer for its tokens."""
    path = write_vocabulary(tmp_path, ["'", "a", "b", "|", "[UNK]", "[PAD]"])
    options = dict(unk_token="[UNK]", pad_token="[PAD]", word_delimiter_token="|")
    extractor = dict(feature_size=1, sampling_rate=16000, padding_value=0.0, do_normalize=True, return_attention_mask=True)
    theirs = transformers.Wav2Vec2Processor(
        feature_extractor=transformers.Wav2Vec2FeatureExtractor(**extractor),
        tokenizer=transformers.Wav2Vec2CTCTokenizer(path, **options),
    )
    for tokenizer in (CTCTokenizer(path, **options), CTCTokenizer(vocab_file=path, **options)):
        ours = HubertProcessor(feature_extractor=HubertFeatureExtractor(**extractor), tokenizer=tokenizer)
        assert len(ours.tokenizer) == len(theirs.tokenizer) == 8 and ours.tokenizer.pad_token_id == 5
        assert ours(text="ab ca").input_ids == theirs(text="ab ca").input_ids == [1, 2, 3, 4, 1]
        ours.save_pretrained(save_directory=tmp_path / "saved")
        loaded = transformers.AutoProcessor.from_pretrained(tmp_path / "saved")
        assert type(loaded) is type(theirs) and loaded.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()
        assert values_of(loaded.feature_extractor) == values_of(theirs.feature_extractor)
        expected = loaded(audio=AUDIO, sampling_rate=16000)
        assert_same(ours(AUDIO, sampling_rate=16000), {name: expected[name] for name in expected})


def test_a_checkpoint_without_a_vocabulary_has_a_feature_extractor(folder):
    """Like facebook/hubert-base-ls960, which was not fine-tuned."""
    for name in ("vocab.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    theirs, ours = (
        loader.from_pretrained(folder) for loader in (transformers.Wav2Vec2FeatureExtractor, HubertFeatureExtractor)
    )
    expected = theirs(AUDIO, sampling_rate=16000, padding=True, return_tensors="np")
    assert_same(
        ours(AUDIO, sampling_rate=16000, padding=True, return_tensors="np"), {name: expected[name] for name in expected}
    )
    with pytest.raises(CheckpointError, match=r"has no vocab\.json"):
        HubertProcessor.from_pretrained(folder)
    from_file = HubertFeatureExtractor.from_pretrained(folder / "preprocessor_config.json", padding_value=2)
    assert from_file == HubertFeatureExtractor(return_attention_mask=True, padding_value=2)


def test_feature_extractors_survive_both_libraries(tmp_path):
    options = dict(do_normalize=False, return_attention_mask=True, padding_value=0.5, sampling_rate=8000)
    ours, theirs = HubertFeatureExtractor(**options), transformers.Wav2Vec2FeatureExtractor(**options)
    assert ours.save_pretrained(tmp_path / "ours") == [str(tmp_path / "ours" / "preprocessor_config.json")]
    theirs.save_pretrained(tmp_path / "theirs")
    for name in ("ours", "theirs"):
        assert HubertFeatureExtractor.from_pretrained(tmp_path / name) == ours
        loaded = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / name)
        assert type(loaded) is type(theirs) and values_of(loaded) == values_of(theirs)
    assert HubertFeatureExtractor.from_pretrained(tmp_path) == HubertFeatureExtractor(), "without a file"
    (tmp_path / "preprocessor_config.json").write_text('{"feature_size": 80}')
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json of .*: feature_size must be 1 for HuBERT models"):
        HubertFeatureExtractor.from_pretrained(tmp_path)


def test_vocabularies_are_saved_alone(folder, tmp_path):
    theirs, ours = (loader.from_pretrained(folder) for loader in (transformers.Wav2Vec2CTCTokenizer, CTCTokenizer))
    for prefix in (None, "x"):
        for name, tokenizer in (("theirs", theirs), ("ours", ours)):
            (tmp_path / name).mkdir(exist_ok=True)
            (path,) = tokenizer.save_vocabulary(str(tmp_path / name), filename_prefix=prefix)
            assert path == str(tmp_path / name / ("vocab.json" if prefix is None else "x-vocab.json"))
            assert json.loads(Path(path).read_text(encoding="utf-8")) == ours.vocabulary
    names = {path.rpartition("/")[2] for path in ours.save_pretrained(tmp_path / "all", filename_prefix="x")}
    assert names == {"x-vocab.json", "x-tokenizer_config.json", "x-special_tokens_map.json"}


def test_added_tokens_of_older_files(tmp_path):
    """Before 4.34, transformers wrote added_tokens.json alone."""
    write_vocabulary(tmp_path, ["<pad>", "<unk>", "a", "b", "|"])
    (tmp_path / "added_tokens.json").write_text('{"<s>": 5, "</s>": 6, "zz": 7}')
    theirs, ours = (loader.from_pretrained(tmp_path) for loader in (transformers.Wav2Vec2CTCTokenizer, CTCTokenizer))
    assert ours.get_vocab() == theirs.get_vocab() and ours("azzb").input_ids == theirs("azzb").input_ids == [2, 7, 3]
    assert ours.decode([2, 7, 5]) == theirs.decode([2, 7, 5]) == "azz<s>"


def test_special_tokens_without_a_name_here_are_special(tmp_path):
    write_vocabulary(tmp_path, ["<pad>", "<unk>", "a", "|", "[CLS]"])
    (tmp_path / "tokenizer_config.json").write_text('{"cls_token": {"content": "[CLS]", "lstrip": false}, "sep_token": null}')
    ours = CTCTokenizer.from_pretrained(tmp_path)
    assert ours.additional_special_tokens == ["[CLS]"] and ours.decode([2, 4, 2], skip_special_tokens=True) == "aa"


def test_phones_have_no_delimiter_by_default(tmp_path):
    path = write_vocabulary(tmp_path, ["<pad>", "a", "b", "|"])
    theirs = getattr(transformers, PHONES)(path, do_phonemize=False)
    ours = CTCTokenizer(path, tokenizer_class=PHONES, do_phonemize=False)
    ids = np.array([1, 3, 2, 2, 0, 2])
    assert ours.word_delimiter_token is theirs._word_delimiter_token is None
    assert ours.decode(ids) == theirs.decode(ids) == "a | b b"
    ours.word_delimiter_token = theirs.word_delimiter_token = "|"
    assert ours.decode(ids) == theirs.decode(ids) == "a b b"

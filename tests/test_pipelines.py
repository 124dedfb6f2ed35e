"""Test that pipelines of transformers take our models and give the results of transformers' models."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from conftest import PRE_LN, perturb

import hubert_fast
from hubert_fast import HubertConfig, HubertForCTC, HubertForSequenceClassification, HubertModel

transformers = pytest.importorskip("transformers")

TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(TOKENS)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    return dict(tokenizer=tokenizer, feature_extractor=transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True))


@pytest.fixture(scope="module")
def waveforms():
    return [
        np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
        for seed, samples in enumerate((48000, 100000, 30000))
    ]


def pair_of(cls: type, folder) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return one of our models, and transformers' with the same weights."""
    torch.manual_seed(0)
    ours = perturb(perturb(cls(HubertConfig(**PRE_LN, num_labels=4)))).eval()
    ours.save_pretrained(folder)
    return ours, getattr(transformers, cls.__name__).from_pretrained(folder)


@pytest.fixture(scope="module")
def recognisers(tmp_path_factory):
    return pair_of(HubertForCTC, tmp_path_factory.mktemp("recogniser"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_timestamps": "char"},
        {"return_timestamps": "word"},
        {"chunk_length_s": 2},
        {"chunk_length_s": 3, "stride_length_s": (1, 0.5), "return_timestamps": "word"},
        {"chunk_length_s": 3, "return_timestamps": "char"},
    ],
    ids=str,
)
def test_speech_recognition(recognisers, parts, waveforms, options):
    actual, expected = (
        transformers.pipeline("automatic-speech-recognition", model=model, **parts)(waveforms, **options)
        for model in recognisers
    )
    assert actual == expected
    assert all(len(set(result["text"])) > 1 for result in actual)  # something to compare


def test_a_batch_of_chunks_gives_what_each_chunk_alone_gives(recognisers, parts, waveforms):
    """transformers' model reads letters in the padding of the last chunks."""
    model, theirs = (transformers.pipeline("automatic-speech-recognition", model=model, **parts) for model in recognisers)
    expected = theirs(waveforms, chunk_length_s=3)
    assert model(waveforms, chunk_length_s=3, batch_size=2) == expected
    assert model(waveforms, chunk_length_s=3) == expected


def test_classification(parts, waveforms, tmp_path):
    actual, expected = (
        transformers.pipeline("audio-classification", model=model, feature_extractor=parts["feature_extractor"])(waveforms)
        for model in pair_of(HubertForSequenceClassification, tmp_path)
    )
    for row, reference in zip(actual, expected, strict=True):
        assert [entry["label"] for entry in row] == [entry["label"] for entry in reference]
        assert [entry["score"] for entry in row] == pytest.approx([entry["score"] for entry in reference], abs=1e-5)


def test_feature_extraction(parts, waveforms, tmp_path):
    ours, theirs = pair_of(HubertModel, tmp_path)
    actual, expected = (
        model(parts["feature_extractor"](waveforms[0], sampling_rate=16000, return_tensors="pt").input_values)
        for model in (ours, theirs)
    )
    assert torch.allclose(actual.last_hidden_state, expected.last_hidden_state, atol=1e-5)


def test_what_pipelines_ask_of_a_model(recognisers):
    ours, theirs = recognisers
    assert ours.can_generate() is theirs.can_generate() is False
    assert ours.framework == "pt" and ours.config.is_encoder_decoder is False
    assert ours.main_input_name == theirs.main_input_name and ours.base_model_prefix == theirs.base_model_prefix


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (HubertModel, "BaseModelOutput"),
        (HubertForCTC, "CausalLMOutput"),
        (HubertForSequenceClassification, "SequenceClassifierOutput"),
    ],
)
def test_outputs_pass_for_those_of_transformers(cls, name):
    model = cls(HubertConfig(**PRE_LN)).eval()
    with torch.no_grad():
        output = model(torch.randn(1, 4000))
    plain = getattr(hubert_fast.outputs, name)
    assert isinstance(output, getattr(transformers.modeling_outputs, name))
    assert isinstance(output, transformers.utils.ModelOutput) and isinstance(output, plain) and isinstance(output, dict)
    assert not isinstance(output, (list, transformers.modeling_outputs.TokenClassifierOutput))
    for copied in (copy.deepcopy(output), pickle.loads(pickle.dumps(output))):
        assert type(copied) is plain and torch.equal(copied[0], output[0])

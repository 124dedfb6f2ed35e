"""Make the folder that recipes run in: checkpoints under the names people use, recordings and a vocabulary.

facebook/hubert-large-ls960-ft   the bundled demo model in float32: layer norm, a CTC head and a processor
facebook/hubert-base-ls960       group norm, an encoder without a head, no vocabulary, no attention mask
superb/hubert-base-superb-ks     group norm, a classification head over a weighted sum of layers, six labels
audio/NAME.wav                   recordings, mono at 16 kHz
vocab.json                       the vocabulary of the demo model
"""

import json
import shutil
from pathlib import Path

import soundfile
import torch
import transformers
from conftest import POST_LN, perturb

from hubert_fast import audio, demo

RECORDINGS = ("stop.wav", "steps.wav", "fan.flac", "window.wav", "long.flac")
BASE = dict(
    POST_LN,
    attention_dropout=0.0,
    hidden_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
    final_dropout=0.0,
    layerdrop=0.0,
    mask_time_length=2,
)
KEYWORDS = ("yes", "no", "up", "down", "stop", "go")


def make_folder(folder: Path) -> Path:
    """Write checkpoints and recordings into an empty folder."""
    state = torch.random.get_rng_state()
    torch.manual_seed(19)
    _make_fine_tuned(folder / "facebook" / "hubert-large-ls960-ft")
    _make_base(folder / "facebook" / "hubert-base-ls960")
    _make_classifier(folder / "superb" / "hubert-base-superb-ks")
    torch.random.set_rng_state(state)
    shutil.copy(demo.MODEL / "vocab.json", folder)
    (folder / "audio").mkdir()
    for name in RECORDINGS:
        waveform = audio.load(demo.RECORDINGS / name)
        soundfile.write(folder / "audio" / Path(name).with_suffix(".wav").name, waveform, 16000, subtype="FLOAT")
    return folder


def _make_fine_tuned(folder: Path) -> None:
    transformers.HubertForCTC.from_pretrained(demo.MODEL, torch_dtype=torch.float32).save_pretrained(folder)
    for path in demo.MODEL.glob("*.json"):
        if path.name != "config.json":
            shutil.copy(path, folder)


def _make_base(folder: Path) -> None:
    perturb(transformers.HubertModel(transformers.HubertConfig(**BASE))).save_pretrained(folder)
    _write_preprocessor(folder)


def _make_classifier(folder: Path) -> None:
    config = transformers.HubertConfig(
        **BASE,
        use_weighted_layer_sum=True,
        id2label=dict(enumerate(KEYWORDS)),
        label2id={label: id for id, label in enumerate(KEYWORDS)},
    )
    perturb(transformers.HubertForSequenceClassification(config)).save_pretrained(folder)
    _write_preprocessor(folder)


def _write_preprocessor(folder: Path) -> None:
    values = {
        "do_normalize": True,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0,
        "return_attention_mask": False,
        "sampling_rate": 16000,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values), encoding="utf-8")

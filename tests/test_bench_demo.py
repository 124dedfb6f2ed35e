"""Test the programs that make the demo recogniser, at a tiny size and without a synthesiser."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hubert_fast

FOLDER = Path(hubert_fast.__file__).parent.parent / "bench" / "demo"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="bench/ is not beside the package under test")


@pytest.fixture(autouse=True)
def _import_from_demo_folder(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize(
    "value, words",
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (305, "three hundred five"),
        (90017, "ninety thousand seventeen"),
        (100000, "one hundred thousand"),
    ],
)
def test_numbers_in_words(value, words):
    from sentences import number

    assert number(value) == words


def test_sentences_use_the_vocabulary_and_the_corpus_avoids_evaluation_sentences(monkeypatch):
    import corpus
    import evaluation
    from sentences import VOCABULARY, sentence

    assert len(VOCABULARY) == 90
    rng = random.Random(0)
    for text in [sentence(rng) for _ in range(2000)] + list(evaluation.held_out_sentences()):
        assert set(text.split()) <= set(VOCABULARY), text
    spoken = []
    monkeypatch.setattr(corpus, "speak", lambda text, voice: spoken.append((text, voice)) or (np.ones(500), []))
    for seed in range(5):
        corpus.make_block(seed, accents=False)
    parts = {part for text, _ in spoken for part in text.split(", ")}
    assert len(spoken) == 5 * corpus.BLOCK_UTTERANCES and not parts & evaluation.held_out_sentences()


def test_held_out_voices_are_not_in_training():
    import recordings
    import voices

    trained = {f"espeak:{accent}+{variant}" for accent in voices.ESPEAK_ACCENTS for variant in voices.ESPEAK_VARIANTS}
    trained |= {f"flite:{voice}" for voice in voices.FLITE_VOICES}
    assert not trained & {voice for _, voice, *_ in recordings.RECORDINGS}
    assert voices.UNSEEN_ESPEAK_ACCENT not in voices.ESPEAK_ACCENTS
    assert not set(voices.UNSEEN_ESPEAK_VARIANTS) & set(voices.ESPEAK_VARIANTS)


def test_accents_are_consistent_and_repeatable():
    from accents import NEIGHBOURS, Accent

    phonemes = "t'3:n h'aI h'aI2 'aIz"
    assert Accent(3).apply(phonemes) == Accent(3).apply(phonemes)
    changed = [Accent(seed).apply(phonemes) for seed in range(50)]
    assert len(set(changed)) > 10 and any(text == phonemes for text in changed)
    accent = Accent(0)
    accent.replacements = {"aI": "eI", "h": ""}
    assert accent.apply(phonemes) == "t'3:n 'eI 'aI2 'eIz"
    assert all(phone not in neighbours for phone, neighbours in NEIGHBOURS.items())


def test_phones_cover_a_recording_and_have_names_of_one_set():
    from phones import ESPEAK_MNEMONICS, PHONES, folded, intervals
    from voices import Phone

    phones = [Phone(0.4, "s"), Phone(0.5, "I2"), Phone(0.5, "t#"), Phone(0.7, "_:")]
    expected = [(0.0, 0.4, ""), (0.4, 0.5, "s"), (0.5, 0.7, "t#"), (0.7, 0.75, "_:"), (0.75, 1.15, "")]
    assert intervals(phones, 0.75, 1.15) == expected
    assert [folded(name) for name in ("s", "I2", "t#", "_:", "ch")] == ["s", "ih", "t", "pau", "ch"]
    assert set(ESPEAK_MNEMONICS) <= set(PHONES)
    mnemonics = " ".join(ESPEAK_MNEMONICS.values()).split()
    assert len(mnemonics) == len(set(mnemonics)) and not set(mnemonics) & set(PHONES)
    with pytest.raises(ValueError, match="'x' is not a known phone: add it to ESPEAK_MNEMONICS"):
        folded("x")


def _small_corpus(folder: Path) -> Path:
    """Write a corpus of ten utterances, each a tone with two phones."""
    import json

    folder.mkdir()
    tone = (8000 * np.sin(np.arange(16000) * 0.2)).astype(np.int16)
    np.tile(tone, 10).tofile(folder / "audio.i16")
    rows = [
        {
            "text": "one two",
            "voice": "espeak:en+m1",
            "phones": [[0.0, "w"], [0.5, "t"]],
            "first_sample": 16000 * i,
            "samples": 16000,
        }
        for i in range(10)
    ]
    (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_batches_align_phones_and_letters_with_the_sound(tmp_path):
    from batches import NO_PHONE, SHAPES, Batches, Corpus
    from train import TOKENS

    vocabulary = {token: index for index, token in enumerate(TOKENS)}
    corpus = Corpus([_small_corpus(tmp_path / "a"), _small_corpus(tmp_path / "b")], vocabulary)
    assert corpus.seconds == 20 and len(corpus.utterances) == 20 and corpus.phone_count == 2
    batches = Batches(corpus, vocabulary["|"], seed=0)
    waveform, phones = np.zeros(76800, np.float32), np.full(239, NO_PHONE)
    labels = batches._fill(waveform, phones)
    text = "".join(TOKENS[label] for label in labels)
    assert set(text.split("|")) == {"ONE", "TWO"} and text.startswith("ONE|TWO|ONE")
    loud = np.array([np.abs(waveform[320 * t : 320 * t + 400]).max() > 0.05 for t in range(len(phones))])
    known = phones != NO_PHONE
    assert (loud == known).mean() > 0.97  # except for frames that straddle an edge
    batch = batches.draw((1, 0, 0))
    rows, seconds = SHAPES[0]
    assert batch.waveforms.shape == (rows, seconds * 16000) and batch.label_lengths.sum() == len(batch.labels)
    assert batch.waveforms.isfinite().all() and torch.allclose(batch.waveforms.mean(-1), torch.zeros(rows), atol=1e-4)
    assert torch.allclose(batch.waveforms.std(-1), torch.ones(rows), atol=1e-3)


@pytest.mark.bench
def test_a_short_run_trains_saves_and_continues(tmp_path, monkeypatch, capsys):
    import batches
    import train

    from hubert_fast.transcribe import Transcriber

    folder = _small_corpus(tmp_path / "corpus")
    monkeypatch.setattr(batches, "SHAPES", ((4, 2.4),) * 3)
    for start in ([], ["--start", str(tmp_path / "out")]):
        arguments = ["--corpus", str(folder), "--out", str(tmp_path / "out"), "--minutes", "0.05", *start]
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        train.main()
        assert "cosine" in capsys.readouterr().out
    transcriber = Transcriber.from_pretrained(tmp_path / "out")
    assert isinstance(transcriber.transcribe(np.random.default_rng(0).standard_normal(16000)), str)

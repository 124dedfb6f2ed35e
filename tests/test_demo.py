"""Test the bundled recogniser: its size, and its texts of the bundled recordings, a regression test of the whole path."""

import jiwer
import pytest
import soundfile

from hubert_fast import demo
from hubert_fast.transcribe import Transcriber


@pytest.fixture(scope="module")
def transcriber():
    return Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype="float32")


def test_the_model_is_small_and_has_the_architecture_of_hubert(transcriber):
    size = sum(file.stat().st_size for file in demo.MODEL.iterdir() if file.is_file())
    assert size <= 8e6
    config = transcriber.model.config
    assert config.do_stable_layer_norm and config.feat_extract_norm == "layer"
    assert config.inputs_to_logits_ratio == 320 and config.receptive_field == 400
    assert len(transcriber.processor.tokenizer.vocabulary) == config.vocab_size == 32


def test_recordings_are_varied():
    formats = [soundfile.info(recording.path) for recording in demo.recordings()]
    assert len(formats) >= 8
    assert {info.format for info in formats} >= {"WAV", "FLAC"}
    assert len({info.samplerate for info in formats}) >= 4 and {info.channels for info in formats} == {1, 2}
    assert all(1 <= info.duration <= 20 for info in formats)


def test_word_error_rate_on_the_recordings(transcriber):
    recordings = demo.recordings()
    texts = [transcriber.transcribe_file(recording.path).text.lower() for recording in recordings]
    error = jiwer.wer([recording.reference for recording in recordings], texts)
    report = "\n".join(f"{r.path.name}: {r.reference} | {text}" for r, text in zip(recordings, texts) if r.reference != text)
    assert error <= 0.05, f"word error rate {100 * error:.1f} %\n{report}"


def test_transformers_gives_the_same_logits_and_texts(transcriber):
    """The bundled checkpoint is an ordinary one, which transformers can load."""
    import torch
    import transformers

    from hubert_fast import audio

    model = transformers.HubertForCTC.from_pretrained(demo.MODEL, dtype=torch.float32).eval()
    processor = transformers.Wav2Vec2Processor.from_pretrained(demo.MODEL)
    for recording in demo.recordings()[:4]:
        waveform = audio.load(recording.path)
        inputs = processor(waveform, sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits
            assert torch.allclose(transcriber.model(**inputs).logits, logits, atol=1e-4)
        # no skip_special_tokens, with which transformers loses doubled letters
        assert processor.batch_decode(logits.argmax(-1)) == [transcriber.transcribe(waveform)]


def test_short_stereo_and_silent_waveforms(transcriber):
    import numpy as np

    with pytest.raises(ValueError, match="too short: 399 samples at 16000 Hz, but one frame needs 400"):
        transcriber.transcribe(np.zeros(399, np.float32))
    with pytest.raises(ValueError, match=r"1-D \(mono\)"):
        transcriber.transcribe(np.zeros((2, 16000), np.float32))
    assert transcriber.transcribe(np.zeros(16000, np.float32)) == ""

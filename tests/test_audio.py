"""Decoding: formats, rates, channels, and every kind of file that is not audio."""

import os

import numpy as np
import pytest
import soundfile

from hubert_fast.audio import AudioError, find, load


def _spectrum_peak_hz(samples: np.ndarray) -> float:
    return np.abs(np.fft.rfft(samples)).argmax() * 16000 / len(samples)


def _tone(sample_rate_hz: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * sample_rate_hz)) / sample_rate_hz)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_rates(tmp_path, rate_hz):
    soundfile.write(tmp_path / "tone.wav", _tone(rate_hz), rate_hz)
    samples = load(tmp_path / "tone.wav")
    assert samples.dtype == np.float32 and abs(len(samples) - 16000) <= 1
    assert _spectrum_peak_hz(samples) == pytest.approx(440, abs=1)
    # amplitude, away from the ends, where the resampling filter has settled
    assert np.abs(samples[2000:-2000]).max() == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(
    "name, subtype",
    [("a.wav", "PCM_U8"), ("a.wav", "PCM_16"), ("a.wav", "PCM_24"), ("a.wav", "FLOAT"), ("a.wav", "ULAW"), ("a.flac", "PCM_16"),
     ("a.ogg", "VORBIS"), ("a.mp3", "MPEG_LAYER_III")],
    ids=lambda value: value,
)  # fmt: skip
def test_formats(tmp_path, name, subtype):
    soundfile.write(tmp_path / name, _tone(16000), 16000, subtype=subtype)
    samples = load(tmp_path / name)
    assert _spectrum_peak_hz(samples) == pytest.approx(440, abs=2)
    assert samples[3000:13000].std() == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_channels_are_averaged(tmp_path):
    left, right = _tone(16000), np.full(16000, 0.25)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    assert np.allclose(load(tmp_path / "stereo.wav"), (left + right) / 2, atol=1e-6)


def _write(path, kind):
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not audio\n" * 50)
    elif kind == "header only":
        soundfile.write(path, np.zeros(0), 16000, format="WAV")
    elif kind == "NaN":
        samples = np.zeros(1000)
        samples[5:8] = np.nan
        soundfile.write(path, samples, 16000, subtype="FLOAT")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "truncated FLAC":
        soundfile.write(path, np.random.default_rng(0).standard_normal(50000) * 0.1, 16000, format="FLAC")
        path.write_bytes(path.read_bytes()[:20000])


@pytest.mark.parametrize(
    "kind, message",
    [
        ("missing", "no such file"),
        ("empty", r"empty \(0 bytes\)"),
        ("text", "not audio that libsndfile can decode"),
        ("header only", "no samples"),
        ("NaN", "3 of 1000 samples are NaN"),
        ("folder", "not a regular file"),
        ("fifo", "not a regular file"),
        ("truncated FLAC", "not audio that libsndfile can decode"),
    ],
)
def test_files_that_give_no_audio(tmp_path, kind, message):
    path = tmp_path / "bad.wav"
    _write(path, kind)
    with pytest.raises(AudioError, match=message) as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_headerless_file(tmp_path):
    path = tmp_path / "samples.raw"
    path.write_bytes(bytes(1000))
    with pytest.raises(AudioError, match="does not say its format"):
        load(path)


def test_a_name_that_is_too_long(tmp_path):
    path = tmp_path / ("x" * 300 + ".wav")
    with pytest.raises(AudioError, match="File name too long"):
        load(path)
    files, errors = find([path])
    assert files == [] and "File name too long" in str(errors[0])


def test_a_flac_that_does_not_know_its_length(tmp_path):
    """Encoders that write to a pipe leave the sample count at zero; soundfile cannot read on from there, and must say so."""
    path = tmp_path / "streamed.flac"
    soundfile.write(path, _tone(16000), 16000)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO: 36 bits of sample count
    data[22:26] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(AudioError, match="not audio that libsndfile can decode"):
        load(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = tmp_path / "secret.wav"
    soundfile.write(path, np.zeros(1000), 16000)
    path.chmod(0)
    with pytest.raises(AudioError, match="Permission denied"):
        load(path)


def test_finding_files(tmp_path):
    for name in ("b.WAV", "a.flac", "sub/c.mp3", "notes.txt", ".d.ogg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    files, errors = find([tmp_path, tmp_path / "a.flac", tmp_path / "notes.txt", tmp_path / "gone", tmp_path / "empty"])
    assert [file.name for file in files] == [".d.ogg", "a.flac", "b.WAV", "c.mp3", "notes.txt"]
    assert ["gone: no such file or folder" in str(errors[0]), "empty: no audio files" in str(errors[1])] == [True, True]

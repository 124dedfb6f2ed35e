"""Test decoding: formats, sampling rates, channels, and files that are not audio."""

import os

import numpy as np
import pytest
import soundfile

from hubert_fast.audio import AudioError, load, read_blocks


def _spectrum_peak_hz(samples: np.ndarray) -> float:
    return np.abs(np.fft.rfft(samples)).argmax() * 16000 / len(samples)


def _tone(sample_rate_hz: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * sample_rate_hz)) / sample_rate_hz)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_files_are_resampled_to_16_khz(tmp_path, rate_hz):
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
def test_decoding_keeps_pitch_and_level(tmp_path, name, subtype):
    soundfile.write(tmp_path / name, _tone(16000), 16000, subtype=subtype)
    samples = load(tmp_path / name)
    assert _spectrum_peak_hz(samples) == pytest.approx(440, abs=2)
    assert samples[3000:13000].std() == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_channels_are_averaged(tmp_path):
    left, right = _tone(16000), np.full(16000, 0.25)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    assert np.allclose(load(tmp_path / "stereo.wav"), (left + right) / 2, atol=1e-6)


def _write_bad_file(path, kind):
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
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "truncated FLAC":
        soundfile.write(path, np.random.default_rng(0).standard_normal(50000) * 0.1, 16000, format="FLAC")
        path.write_bytes(path.read_bytes()[:20000])


@pytest.mark.parametrize(
    "kind, message",
    [
        ("missing", "no such file"),
        ("empty", r"empty \(0 bytes\)"),
        ("text", "this is a text file that begins with 'this is not audio', not audio"),
        ("header only", "no samples"),
        ("NaN", "3 of 1000 samples are NaN"),
        ("folder", "this is a folder"),
        ("device", "not a regular file"),
        ("truncated FLAC", r"cut off: its header says 3.1 s, but it ends after 0.8 s"),
    ],
)
def test_unusable_files_are_refused(tmp_path, kind, message):
    path = tmp_path / "bad.wav"
    _write_bad_file(path, kind)
    with pytest.raises(AudioError, match=message) as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_the_error_for_a_headerless_file_suggests_stdin_format(tmp_path):
    path = tmp_path / "samples.raw"
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(AudioError, match=r"not audio in a known format: it begins with the bytes 00 01 02.*--stdin-format"):
        load(path)


def test_an_overlong_file_name_is_an_error(tmp_path):
    path = tmp_path / ("x" * 300 + ".wav")
    with pytest.raises(AudioError, match="File name too long"):
        load(path)


def test_a_flac_without_a_sample_count_is_decoded(tmp_path):
    """Encoders that write to a pipe leave the sample count at zero."""
    path = tmp_path / "streamed.flac"
    soundfile.write(path, _tone(16000), 16000)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO: 36 bits of sample count
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert np.abs(load(path) - _tone(16000)).max() <= 1 / 32768


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_refused(tmp_path):
    path = tmp_path / "secret.wav"
    soundfile.write(path, np.zeros(1000), 16000)
    path.chmod(0)
    with pytest.raises(AudioError, match="Permission denied"):
        load(path)


def _truncate(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "name, message",
    [
        ("a.wav", "cut off: its header claims 320000 bytes of samples, but the file has"),
        ("a.aiff", "cut off: its header claims .* bytes of samples"),
        ("a.au", "cut off: its header claims .* bytes of samples"),
        ("a.mp3", r"cut off: its header says 10.0 s, but it ends after"),
        ("a.ogg", "cut off: the Ogg stream has no end"),
        ("a.flac", r"cut off: its header says 10.0 s, but it ends after 5\.\d s"),
    ],
)
def test_a_file_that_is_cut_off_is_refused_or_kept_on_request(tmp_path, name, message):
    path = tmp_path / name
    # broad-band noise, which no encoder can compress to almost nothing
    samples = 0.1 * np.random.default_rng(0).standard_normal(160000)
    soundfile.write(path, samples, 16000)
    assert len(load(path)) == pytest.approx(160000, abs=1)
    _truncate(path, 0.5)
    with pytest.raises(AudioError, match=message):
        load(path)
    kept = np.concatenate([block[0] for block in read_blocks(path, keep_truncated=True)])
    assert 60000 < len(kept) < 100000


def test_a_wav_of_unknown_length_is_not_reported_as_cut_off(tmp_path):
    """Programs that write to a pipe leave 0xFFFFFFFF in place of the sizes."""
    path = tmp_path / "streamed.wav"
    soundfile.write(path, _tone(16000), 16000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    assert np.abs(load(path) - _tone(16000)).max() <= 1 / 32768


@pytest.mark.parametrize("rate_hz, message", [(1, "but is 1 Hz"), (4_000_000, "but is 4000000 Hz")])
def test_impossible_sampling_rates_are_refused(tmp_path, rate_hz, message):
    soundfile.write(tmp_path / "odd.wav", np.zeros(1000), rate_hz)
    with pytest.raises(AudioError, match=message):
        load(tmp_path / "odd.wav")


def test_a_header_that_claims_gigabytes_is_reported_as_cut_off(tmp_path):
    path = tmp_path / "claims.wav"
    soundfile.write(path, _tone(16000), 16000)
    data = bytearray(path.read_bytes())
    data[40:44] = (0x7FFE0000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(AudioError, match="cut off: its header claims 2147352576 bytes"):
        load(path)
    assert len(next(read_blocks(path, keep_truncated=True))[0]) == 16000


@pytest.mark.parametrize("rate_hz, channels", [(16000, 1), (16000, 2), (44100, 1), (44100, 3)])
def test_blocks_add_up_to_the_whole_file(tmp_path, monkeypatch, rate_hz, channels):
    path = tmp_path / "a.wav"
    rng = np.random.default_rng(0)
    soundfile.write(path, 0.1 * rng.standard_normal((rate_hz * 3, channels)), rate_hz)
    whole = load(path)
    separate = np.concatenate(list(read_blocks(path, each_channel=True)), axis=1)
    monkeypatch.setattr("hubert_fast.audio.with_soundfile.BLOCK_SAMPLES", 7001)
    blocks = list(read_blocks(path))
    assert len(blocks) > 5 and max(block.shape[1] for block in blocks) <= 7001 + 100
    joined = np.concatenate(blocks, axis=1)[0]
    joined = joined / 32768 if joined.dtype == np.int16 else joined
    assert np.abs(joined - whole).max() <= 1e-6
    assert separate.shape == (channels, len(whole))
    separate = separate / 32768 if separate.dtype == np.int16 else separate
    assert np.abs(separate.mean(0) - whole).max() <= 1e-6


@pytest.mark.parametrize(
    "name, subtype, dtype", [("a.wav", "PCM_16", np.int16), ("a.flac", "PCM_16", np.int16), ("a.wav", "PCM_24", np.float32)]
)
def test_16_bit_samples_stay_int16(tmp_path, name, subtype, dtype):
    soundfile.write(tmp_path / name, _tone(16000), 16000, subtype=subtype)
    (block,) = read_blocks(tmp_path / name)
    assert block.dtype == dtype and block.shape == (1, 16000)


def test_offset_and_duration_select_a_part_of_a_file(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, _tone(16000, 3), 16000)
    whole = next(read_blocks(path))
    (part,) = read_blocks(path, offset_seconds=1.5, duration_seconds=0.25)
    assert np.array_equal(part, whole[:, 24000:28000])
    (rest,) = read_blocks(path, offset_seconds=2.5, duration_seconds=9)
    assert np.array_equal(rest, whole[:, 40000:])
    with pytest.raises(AudioError, match="the requested part begins at 3 s, but the audio ends at 3 s"):
        list(read_blocks(path, offset_seconds=3))


def test_files_are_loaded_from_urls(tmp_path):
    import fsspec

    soundfile.write(tmp_path / "a.flac", _tone(44100), 44100)
    with fsspec.open("memory://speech/a.flac", "wb") as file:
        file.write((tmp_path / "a.flac").read_bytes())
    with fsspec.open("memory://speech/empty.flac", "wb") as file:
        file.write(b"")
    expected = load(tmp_path / "a.flac")
    assert np.array_equal(load("memory://speech/a.flac"), expected)
    assert np.array_equal(load(f"file://{tmp_path}/a.flac"), expected)
    for url, message in (
        ("memory://speech/none.flac", "no such file"),
        ("memory://speech/empty.flac", r"empty \(0 bytes\)"),
        ("nosuch://a.wav", "nosuch:// URLs are not supported"),
    ):
        with pytest.raises(AudioError, match=message) as error:
            load(url)
        assert str(error.value).startswith(url)


def test_large_remote_files_are_read_piece_by_piece(tmp_path, monkeypatch):
    """A broken connection looks to libsndfile like the end of the file, but must not pass for a short recording."""
    import io

    from hubert_fast.audio import opening

    soundfile.write(tmp_path / "a.flac", _tone(44100, 30), 44100)
    data, expected = (tmp_path / "a.flac").read_bytes(), load(tmp_path / "a.flac")
    monkeypatch.setattr(opening, "WHOLE_BYTES", 1000)
    breaks_after = [10**9]

    class File(io.BytesIO):
        def read(self, size=-1):
            if self.tell() >= breaks_after[0]:
                raise OSError("connection reset")
            return super().read(size)

    import fsspec

    monkeypatch.setattr(fsspec, "open", lambda *arguments: File(data))
    assert np.array_equal(load("s3://a.flac"), expected)
    breaks_after[0] = len(data) // 2
    with pytest.raises(AudioError, match="connection reset"):
        load("s3://a.flac")

"""Test sources of audio (parts of files, pipes, standard input, archives, servers), huge files, and channels that cancel."""

import http.server
import os
import re
import subprocess
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import soundfile
from encoded_audio import encode, with_claimed_size

from hubert_fast import demo
from hubert_fast.audio import AudioError, load, read_blocks
from hubert_fast.audio.pipes import Command

PARTS = (
    "wav", "wav gsm", "wav adpcm", "flac", "mp3", "mp3 44.1 kHz", "ogg vorbis", "ogg opus", "m4a", "m4a fragmented", "webm",
    "mkv", "aac", "wma", "mpeg-ts",
)  # fmt: skip


@pytest.fixture(scope="module")
def speech_samples() -> np.ndarray:
    return np.concatenate([load(demo.RECORDINGS / name) for name in ("steps.wav", "window.wav", "steps.wav")])


def _float(blocks) -> np.ndarray:
    return np.concatenate([block[0] / (32768 if block.dtype == np.int16 else 1) for block in blocks])


@pytest.mark.parametrize("format", PARTS)
def test_a_part_equals_the_same_part_of_the_whole_file(format, speech_samples, tmp_path):
    """Some of these decoders can seek, some cannot, and in some a frame depends on the previous one."""
    path = tmp_path / "file"
    path.write_bytes(encode(speech_samples, format))
    whole = load(path)
    part = _float(read_blocks(path, offset_seconds=3.3, duration_seconds=1.5))
    assert len(part) == pytest.approx(24000, abs=2)
    # Matroska's times are whole milliseconds: the frame after a seek may be off by half a millisecond
    starts = range(52800 - 16, 52800 + 17) if format in ("mkv", "webm") else [52800]
    start = min(starts, key=lambda start: np.abs(part - whole[start : start + len(part)]).sum())
    expected = whole[start : start + len(part)]
    inner = slice(800, -800)  # at its ends the resampler lacks the neighbouring samples
    error = np.sqrt(np.mean((part - expected)[inner] ** 2) / np.mean(expected[inner] ** 2))
    # where the start had to be aligned, it is still off by a fraction of a sample
    assert error < (0.2 if len(starts) > 1 else 0.02), f"relative error {error:.3f}"


@pytest.mark.parametrize("fault", ["no tag", "flac without a length", "joined"])
def test_a_part_of_a_faulty_file_equals_that_of_the_whole_file(fault, speech_samples, tmp_path):
    path = tmp_path / "file"
    mp3 = encode(speech_samples, "mp3")
    path.write_bytes(
        {"no tag": with_claimed_size("mp3", mp3, None), "joined": mp3 + mp3}.get(fault)
        or with_claimed_size("flac", encode(speech_samples, "flac"), None)
    )
    whole = load(path)
    start = 9.0 if fault == "joined" else 3.3
    part = _float(read_blocks(path, offset_seconds=start, duration_seconds=1.5))
    assert np.abs(part - whole[round(start * 16000) :][:24000]).max() < 2e-3


def test_a_note_reports_a_part_that_extends_beyond_the_end(speech_samples, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(encode(speech_samples, "wav"))
    seconds, notes = len(speech_samples) / 16000, []
    (rest,) = read_blocks(path, offset_seconds=seconds - 1, duration_seconds=3, note=notes.append)
    assert rest.shape == (1, 16000)
    assert notes == [f"{path}: expected 3 s of audio from {seconds - 1:g} s on, but the file ends 1.00 s after that"]


@pytest.mark.parametrize("container, codec", [("asf", "wmav2"), ("avi", "libmp3lame"), ("matroska", "libopus"), ("flv", "aac")])
def test_containers_written_to_a_pipe_are_decoded_without_a_note(container, codec, speech_samples, tmp_path):
    import io

    import av

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *arguments):
            raise OSError("a pipe")

    pipe, rate_hz = Pipe(), 48000 if codec == "libopus" else 44100
    pipe.close = lambda: None
    with av.open(pipe, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz)
        stream.layout, stream.bit_rate = "mono", 64_000
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray((speech_samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        resampler = av.AudioResampler(stream.codec_context.format, "mono", rate_hz, stream.codec_context.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    (tmp_path / "file").write_bytes(pipe.getvalue())
    notes = []
    samples = _float(read_blocks(tmp_path / "file", note=notes.append))
    assert abs(len(samples) - len(speech_samples)) / 16000 <= 0.1 and not notes


def test_only_missing_parts_of_a_cut_off_file_are_errors(speech_samples, tmp_path):
    """A part that exists is decoded; one that is missing is an error, as for the whole file."""
    path = tmp_path / "a.wav"
    path.write_bytes(encode(speech_samples, "wav")[:100_000])
    (part,) = read_blocks(path, offset_seconds=1, duration_seconds=1)
    assert part.shape == (1, 16000)
    with pytest.raises(AudioError, match="cut off: "):
        list(read_blocks(path, offset_seconds=2, duration_seconds=2))
    (kept,) = read_blocks(path, offset_seconds=2, duration_seconds=2, keep_truncated=True)
    assert 15_000 < kept.shape[1] < 20_000


@pytest.mark.parametrize("format", ["wav", "mp3", "ogg vorbis", "m4a", "webm"])
def test_audio_is_loaded_from_standard_input(format, speech_samples, tmp_path):
    code = "from hubert_fast import audio; x = audio.load('-'); print(len(x), float(abs(x).sum()))"
    path = tmp_path / "file"
    path.write_bytes(encode(speech_samples, format))
    with open(path, "rb") as file:
        run = subprocess.run(["cat"], stdin=file, capture_output=True, check=True)
    run = subprocess.run([sys.executable, "-c", code], input=run.stdout, capture_output=True, check=True)
    expected = load(path)
    count, total = run.stdout.split()
    assert int(count) == len(expected) and float(total) == pytest.approx(float(np.abs(expected).sum()), rel=1e-5)


@pytest.mark.parametrize("name, dtype, scale", [("s16le", "<i2", 32768), ("f32le", "<f4", 1), ("s32be", ">i4", 1 << 31)])
def test_raw_samples_are_loaded_from_standard_input(name, dtype, scale):
    code = f"from hubert_fast import audio; x = audio.load('raw:{name}:8000:2:-', 8000); print(len(x), x[:3].tolist())"
    stereo = np.array([[0.5, 0.25], [-0.5, 0.0], [0.125, 0.125]])
    run = subprocess.run(
        [sys.executable, "-c", code], input=(stereo * scale).astype(dtype).tobytes(), capture_output=True, check=True
    )
    assert run.stdout.decode().strip() == "3 [0.375, -0.25, 0.125]"


def test_audio_is_loaded_from_a_named_pipe(speech_samples, tmp_path):
    os.mkfifo(tmp_path / "pipe.m4a")
    data = encode(speech_samples, "m4a")
    (tmp_path / "file.m4a").write_bytes(data)
    writer = threading.Thread(target=(tmp_path / "pipe.m4a").write_bytes, args=(data,))
    writer.start()
    assert np.array_equal(load(tmp_path / "pipe.m4a"), load(tmp_path / "file.m4a"))
    writer.join()


def test_audio_is_loaded_from_a_command(speech_samples, tmp_path):
    (tmp_path / "a.wav").write_bytes(encode(speech_samples, "wav"))
    assert np.array_equal(load(Command(f"cat {tmp_path}/a.wav |")), load(tmp_path / "a.wav"))
    with pytest.raises(AudioError, match=r"the command ended with status 3: no such speaker"):
        load(Command("echo no such speaker >&2; exit 3 |"))
    with pytest.raises(AudioError, match="no such file"):
        load("cat /etc/passwd |")  # a plain string is a path, not a command


def test_a_pipeline_whose_first_command_fails_is_an_error(speech_samples, tmp_path):
    (tmp_path / "a.wav").write_bytes(encode(speech_samples, "wav"))
    with pytest.raises(AudioError, match="the command ended with status 7"):
        load(Command(f"(head -c 20000 {tmp_path}/a.wav; exit 7) | cat |"))


def test_standard_input_cannot_be_read_twice():
    code = "from hubert_fast.audio import *\nload('-')\ntry: load('-')\nexcept AudioError as error: print(error)"
    data = encode(np.zeros(1600, np.float32), "wav")
    run = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert run.stdout.decode().strip() == "-: standard input has already been read and cannot be read again"


def test_the_error_for_a_full_temporary_folder_suggests_tmpdir(speech_samples, tmp_path, monkeypatch):
    import errno
    import shutil

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"RIFF",))
    writer.start()
    with pytest.raises(AudioError, match=r"no room for a copy of it in the temporary folder .*: set TMPDIR"):
        load(tmp_path / "pipe")
    writer.join()


def test_a_file_name_with_a_null_byte_is_an_error():
    with pytest.raises(AudioError, match="not a valid file name: it contains a null byte"):
        load("a\0.wav")


def test_an_unreachable_server_is_an_error():
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    with pytest.raises(AudioError, match="the server cannot be reached"):
        load("http://127.0.0.1:9/a.wav")


def test_files_are_loaded_from_archives(speech_samples, tmp_path):
    for format, name in (("wav", "a.wav"), ("m4a", "b.m4a"), ("flac", "c.flac")):
        (tmp_path / name).write_bytes(encode(speech_samples, format))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped, tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tarred:
        for name in ("a.wav", "b.m4a", "c.flac"):
            zipped.write(tmp_path / name, f"sub/{name}")
            tarred.add(tmp_path / name, f"sub/{name}")
    for name in ("a.wav", "b.m4a", "c.flac"):
        expected = load(tmp_path / name)
        assert np.array_equal(load(f"zip://sub/{name}::{tmp_path}/a.zip"), expected)
        assert np.array_equal(load(f"tar://sub/{name}::{tmp_path}/a.tar.gz"), expected)
    with pytest.raises(AudioError, match="no such file"):
        load(f"zip://gone.wav::{tmp_path}/a.zip")


def test_large_files_are_loaded_from_archives(speech_samples, tmp_path, monkeypatch):
    """Files too large to be fetched whole are read piece by piece by libsndfile, and copied to disk for FFmpeg."""
    from hubert_fast.audio import opening

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        for format in ("wav", "m4a", "mp3"):
            (tmp_path / format).write_bytes(encode(speech_samples, format))
            zipped.write(tmp_path / format, format)
    monkeypatch.setattr(opening, "WHOLE_BYTES", 5000)
    for format in ("wav", "m4a", "mp3"):
        assert np.array_equal(load(f"zip://{format}::{tmp_path}/a.zip"), load(tmp_path / format))


@pytest.fixture
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error({"busy": 503, "forbidden": 403, "gone": 410, "private": 401}.get(self.path.strip("/.wav"), 404))

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "name, status",
    [
        ("busy", "503 Service Unavailable"),
        ("forbidden", "403 Forbidden"),
        ("private", "401 Unauthorized"),
        ("none", "404 Not Found"),
    ],
)
def test_the_error_names_the_http_status(name, status, server):
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    with pytest.raises(AudioError) as error:
        load(f"{server}/{name}.wav")
    assert str(error.value) == f"{server}/{name}.wav: the server answered {status}"


def test_audio_is_decoded_after_its_size_wrapped_at_4_gib(tmp_path):
    """Hours of audio after the wrap used to be lost. The file is sparse, with sound in its last second."""
    path, seconds = tmp_path / "huge.wav", 38 * 3600
    size = 2 * 16000 * seconds
    header = bytearray(encode(np.zeros(0, np.float32), "wav"))
    header[4:8], header[40:44] = ((size + 36) % (1 << 32)).to_bytes(4, "little"), (size % (1 << 32)).to_bytes(4, "little")
    tone = (8000 * np.sin(np.arange(16000) / 5)).astype("<i2")
    with open(path, "wb") as file:
        file.write(header)
        file.seek(len(header) + size - 32000)
        file.write(tone.tobytes())
    notes = []
    (last,) = read_blocks(path, offset_seconds=seconds - 1, note=notes.append)
    assert last.dtype == np.int16 and np.array_equal(last[0], tone)
    assert len(notes) == 1 and f"but the file has {size:,}: all are decoded" in notes[0]


def _mixed_file(path, left, right, rate_hz=16000) -> tuple[np.ndarray, list[str]]:
    soundfile.write(path, np.stack([left, right], 1), rate_hz, subtype="FLOAT")
    notes: list[str] = []
    return np.concatenate([block[0] for block in read_blocks(path, note=notes.append)]), notes


def _remaining_share(samples, expected) -> float:
    """Return the share of `expected` that remains in `samples`, from the differences between successive samples."""
    samples, expected = np.diff(samples), np.diff(expected)
    return abs(float(np.dot(samples, expected) / np.dot(expected, expected)))  # the phase may be inverted


@pytest.mark.parametrize("gain", [-1.0, -0.9])
def test_the_first_channel_replaces_channels_that_cancel(gain, speech_samples, tmp_path):
    mixed, notes = _mixed_file(tmp_path / "a.wav", speech_samples, gain * speech_samples)
    assert np.allclose(mixed, speech_samples, atol=1e-6)
    assert len(notes) == 1 and "cancel when averaged" in notes[0] and "channel 1, is transcribed" in notes[0]
    each = np.concatenate(list(read_blocks(tmp_path / "a.wav", each_channel=True, note=notes.append)), axis=1)
    assert each.shape == (2, len(speech_samples)) and len(notes) == 1


@pytest.mark.parametrize("kind", ["offset", "hum", "quiet", "noise"])
def test_shared_disturbances_do_not_hide_that_channels_cancel(kind, speech_samples, tmp_path):
    """A cheap sound card adds an offset, mains adds hum, a microphone adds noise; some record at -80 dB."""
    x, time = speech_samples, np.arange(len(speech_samples)) / 16000
    shared = {
        "offset": 0.05,
        "hum": 0.02 * np.sin(2 * np.pi * 50 * time),
        "quiet": 0.0,
        "noise": 0.0005 * np.random.default_rng(0).standard_normal(len(x)),
    }[kind]
    level = 2e-4 if kind == "quiet" else 0.5
    mixed, notes = _mixed_file(tmp_path / "a.wav", level * x + shared, -level * x + shared)
    assert _remaining_share(mixed, level * x) > 0.9 and len(notes) == 1


def test_one_channel_replaces_the_mean_only_where_channels_cancel(speech_samples, tmp_path):
    """Speech that later is in the other channel alone is not lost."""
    x, silence = speech_samples, np.zeros_like(speech_samples)
    left, right = np.concatenate([x, x, silence]), np.concatenate([x, -x, x])
    mixed, notes = _mixed_file(tmp_path / "a.wav", left, right)
    parts = np.split(mixed, 3)
    assert np.allclose(parts[0], x, atol=1e-6) and _remaining_share(parts[1], x) > 0.97 and _remaining_share(parts[2], x) > 0.45
    match = re.search(r"from ([\d.]+) s on", notes[0])
    assert len(notes) == 1 and float(match[1]) == pytest.approx(len(x) / 16000, abs=0.6)  # the speech pauses there


@pytest.mark.parametrize("kind", ["equal", "one silent", "unrelated", "silence", "half as loud, inverted"])
def test_channels_that_do_not_cancel_are_averaged(kind, speech_samples, tmp_path):
    second = {
        "equal": speech_samples,
        "one silent": 0 * speech_samples,
        "unrelated": np.roll(speech_samples, 30000),
        "silence": None,
        "half as loud, inverted": -0.3 * speech_samples,
    }[kind]
    both = np.zeros((16000, 2)) if second is None else np.stack([speech_samples, second], 1)
    soundfile.write(tmp_path / "a.wav", both, 16000, subtype="FLOAT")
    notes = []
    mixed = np.concatenate([block[0] for block in read_blocks(tmp_path / "a.wav", note=notes.append)])
    assert np.allclose(mixed, both.mean(1), atol=1e-6) and not notes


def _video_with_late_sound(path, samples: np.ndarray, late_seconds: float) -> None:
    """Write an MP4 whose picture begins at 0 and whose sound begins later, AAC at 44.1 kHz."""
    import av

    with av.open(str(path), "w", format="mp4") as output:
        picture, sound = output.add_stream("mpeg4", rate=10), output.add_stream("aac", rate=44100)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        sound.layout = "mono"
        sound.codec_context.open()
        for number in range(round(10 * (late_seconds + len(samples) / 16000))):
            frame = av.VideoFrame(64, 64, "yuv420p")
            frame.pts = number
            output.mux(picture.encode(frame))
        output.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        resampler = av.AudioResampler(sound.codec_context.format, "mono", 44100, sound.codec_context.frame_size)
        at = round(late_seconds * 44100)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            part.pts, at = at, at + part.samples
            output.mux(sound.encode(part))
        output.mux(sound.encode(None))


def test_silence_precedes_sound_that_begins_after_the_picture(speech_samples, tmp_path):
    """Times are those of the video, in the whole file and in parts of it."""
    path, late = tmp_path / "a.mp4", 3.0
    _video_with_late_sound(path, speech_samples, late)
    whole = load(path)
    assert abs(len(whole) / 16000 - late - len(speech_samples) / 16000) < 0.1
    assert not whole[: round(16000 * (late - 0.1))].any()
    expected = np.concatenate([np.zeros(round(16000 * late), np.float32), speech_samples])
    for start in (0.0, 2.0, 2.5, 4.0, 6.0):
        part = _float(read_blocks(path, offset_seconds=start, duration_seconds=2.0))
        assert len(part) == pytest.approx(32000, abs=2)
        expected_part = expected[round(16000 * start) :][: len(part)]
        if expected_part.any():
            size = 1 << 17
            correlation = np.fft.irfft(np.fft.rfft(part, size) * np.conj(np.fft.rfft(expected_part, size)), size)
            lag = int(np.abs(correlation).argmax())
            assert min(lag, size - lag) <= 480, f"{start} s: {min(lag, size - lag) / 16:.0f} ms off"

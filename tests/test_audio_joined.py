"""Whatever follows a recording in its file is decoded or named in a note; tags and chunks do not count as damage."""

import contextlib
import struct
import time

import numpy as np
import pytest
from encoded_audio import decoded_file, encode, id3v2, lag_seconds, riff

from hubert_fast import demo
from hubert_fast.audio import AudioError, load
from hubert_fast.audio.opening import opened
from hubert_fast.audio.planning import plan_file

JOINED = "this file holds 2 recordings joined end to end: all of them are decoded, in order"
FIRST = (
    "wav", "wav 24 bit", "rf64", "w64", "aiff", "au", "caf", "sphere", "flac", "mp3", "mp2", "ogg vorbis", "ogg opus", "m4a",
    "m4a fragmented", "mov", "webm", "mkv", "wma", "avi", "aac", "flv", "mpeg-ts", "ac3", "wavpack", "tta",
)  # fmt: skip
SECOND = ("wav", "flac", "mp3", "ogg opus", "m4a", "webm", "wma")
ID3V1 = b"TAG" + b"x" * 125
NOISE = np.random.default_rng(0).bytes(20_000)
NOT_AUDIO = {"a PNG image": b"\x89PNG\r\n\x1a\n" + NOISE, "a zip archive": b"PK\x03\x04" + NOISE}


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load(demo.RECORDINGS / "steps.wav")


@pytest.fixture(scope="module")
def encoded(speech):
    cache: dict[str, bytes] = {}

    def get(format: str) -> bytes:
        if format not in cache:
            cache[format] = encode(speech, format)
        return cache[format]

    return get


@pytest.fixture
def decode(tmp_path):
    """Return a function that decodes the bytes of a file to samples, and notes without the path."""

    def decoded(data: bytes, **options) -> tuple[np.ndarray, list[str]]:
        path = tmp_path / "file"
        path.write_bytes(data)
        samples, notes = decoded_file(path, **options)
        return samples, [note.removeprefix(f"{path}: ") for note in notes]

    return decoded


def _check(samples: np.ndarray, speech: np.ndarray, count: int, seconds: float = 0.03) -> None:
    """Check that a decoded file holds the speech `count` times, each at most `seconds` off."""
    assert abs(len(samples) / 16000 - count * len(speech) / 16000) <= 0.1 * count
    for number in range(count):
        at = number * len(speech)
        lag = lag_seconds(samples[at : at + len(speech)], speech)
        assert abs(lag) <= seconds, f"recording {number + 1} is {1000 * lag:.0f} ms off"


def _untagged(mp3: bytes) -> bytes:
    """Drop the frame that states the number of frames."""
    return mp3[mp3.index(b"\xff", 4) :] if mp3.find(b"Xing", 0, 400) < 0 and mp3.find(b"Info", 0, 400) < 0 else _after_tag(mp3)


def _after_tag(mp3: bytes) -> bytes:
    end = mp3.index(mp3[:2], 100)
    while mp3[end + 2] & 0x0C != mp3[2] & 0x0C:
        end = mp3.index(mp3[:2], end + 1)
    return mp3[end:]


def _with_frame_count(mp3: bytes, frames: int) -> bytes:
    at = max(mp3.find(b"Xing", 0, 400), mp3.find(b"Info", 0, 400))
    return mp3[: at + 8] + struct.pack(">I", frames) + mp3[at + 12 :]


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("first", FIRST)
def test_two_joined_recordings_are_both_decoded(first, second, encoded, decode, speech):
    samples, notes = decode(encoded(first) + encoded(second))
    # an encoder's padding stays if the format does not state its length
    _check(samples, speech, 2, 0.11)
    assert notes == [JOINED]


@pytest.mark.parametrize("kinds", [("ogg opus", "flac", "ogg vorbis"), ("flac", "ogg opus", "flac"), ("mp3", "wav", "mp3")])
def test_three_joined_recordings_are_all_decoded(kinds, encoded, decode, speech):
    samples, notes = decode(b"".join(map(encoded, kinds)))
    _check(samples, speech, 3, 0.11)
    assert notes == [JOINED.replace("2", "3")]


@pytest.mark.parametrize("kind", NOT_AUDIO)
@pytest.mark.parametrize("first", FIRST)
def test_appended_files_that_are_not_audio_are_skipped(first, kind, encoded, decode, speech):
    samples, notes = decode(encoded(first) + NOT_AUDIO[kind])
    _check(samples, speech, 1)
    assert notes == [f"skipped the last {len(NOT_AUDIO[kind]):,} bytes, which are {kind}"]


@pytest.mark.parametrize("first", ["flac", "ogg opus", "tta", "wavpack", "mp3", "aac"])
def test_junk_between_recordings_is_skipped(first, encoded, decode, speech):
    samples, notes = decode(encoded(first) + b"\x01" * 3001 + encoded("wav"))
    _check(samples, speech, 2, 0.11)
    assert notes == ["skipped 3,001 bytes between recordings, which are not audio", JOINED][first == "flac" :]


def test_a_wav_after_a_flac_of_unknown_length_is_decoded(encoded, decode, speech):
    flac = bytearray(encoded("flac"))
    flac[21:26] = bytes([flac[21] & 0xF0, 0, 0, 0, 0])
    samples, notes = decode(bytes(flac) + encoded("wav"))
    _check(samples, speech, 2)
    assert notes == [JOINED]


@pytest.mark.parametrize("first, missing_bytes", [("flac", 3000), ("ogg opus", 300), ("wav", 20_000)])
@pytest.mark.parametrize("second", ["wav", "flac", "ogg opus", "m4a"])
def test_a_cut_off_recording_before_another_is_an_error(first, missing_bytes, second, encoded, decode, speech):
    data = encoded(first)[:-missing_bytes] + encoded(second)
    with pytest.raises(AudioError, match=r"cut off|damaged"):
        decode(data)
    samples, notes = decode(data, keep_truncated=True)
    assert 1.6 * len(speech) < len(samples) < 2.01 * len(speech)
    assert abs(lag_seconds(samples[-len(speech) :], speech)) <= 0.11
    assert JOINED in notes


def test_several_chunks_of_samples_are_all_decoded(speech, decode):
    pcm = (speech * 32767).round().astype("<i2").tobytes()
    first, second = (b"data", pcm[:40_000]), (b"data", pcm[40_000:])
    note = ["the samples are in 2 chunks: all of them are decoded, in order"]
    for chunks in ([first, second], [first, (b"LIST", b"INFOabcd"), second], [(b"LIST", b"wavl" + riff(first, second))]):
        samples, notes = decode(_wav(*chunks))
        np.testing.assert_array_equal(np.round(samples * 32768), np.frombuffer(pcm, "<i2"))
        assert notes == note
    samples, _ = decode(_wav((b"data", b""), (b"data", pcm)))
    np.testing.assert_array_equal(np.round(samples * 32768), np.frombuffer(pcm, "<i2"))
    with pytest.raises(AudioError, match=r"cut off: its last chunk claims [\d,]+ bytes of samples, but the file has"):
        decode(_wav(first, second)[:-10_000])


def _wav(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WAVE" + riff((b"fmt ", struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)), *chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("picture_bytes", [100, 300_000, 3_000_000])
@pytest.mark.parametrize("has_info", [True, False], ids=["Info", "bare"])
def test_tags_between_mp3s_do_not_count_as_damage(picture_bytes, has_info, encoded, decode, speech):
    mp3 = encoded("mp3") if has_info else _untagged(encoded("mp3"))
    tag = id3v2(picture_bytes)
    samples, notes = decode(tag + mp3 + ID3V1 + tag + mp3 + ID3V1)
    _check(samples, speech, 2, 0.11)
    assert notes == [JOINED]


@pytest.mark.parametrize("frames", [20, 400_000])
def test_a_wrong_frame_count_in_a_tag_is_noted_and_ignored(frames, encoded, decode, speech):
    samples, notes = decode(_with_frame_count(encoded("mp3"), frames))
    _check(samples, speech, 1)
    assert len(notes) == 1 and notes[0].endswith("s: all of it is decoded") and notes[0].startswith("its header says ")


def test_an_impossible_encoder_delay_is_ignored(encoded, decode, speech):
    mp3 = encoded("mp3 44.1 kHz")
    at = mp3.index(b"Lav", mp3.index(b"Info" if b"Info" in mp3[:400] else b"Xing")) + 21
    samples, notes = decode(mp3[:at] + b"\xff\xff\xff" + mp3[at + 3 :])
    _check(samples, speech, 1)
    assert notes == []


def test_zeros_do_not_hide_that_an_mp3_is_cut_off(encoded, decode):
    mp3 = encoded("mp3")
    with pytest.raises(AudioError, match=r"cut off: its header says 2\.5 s, but it ends after 1"):
        decode(mp3[: len(mp3) // 2] + bytes(2 * len(mp3)))


@pytest.mark.parametrize("size", ["not synchsafe", "too small", "too large", "beyond the file"])
def test_an_id3_tag_with_a_wrong_size_is_skipped(size, encoded, decode, speech):
    tag = id3v2(400_000)
    count = len(tag) - 10
    if size == "not synchsafe":
        wrong = struct.pack(">I", count)
    else:
        count = {"too small": 1000, "too large": count + 3000, "beyond the file": count + 5_000_000}[size]
        wrong = bytes(count >> shift & 0x7F for shift in (21, 14, 7, 0))
    samples, notes = decode(tag[:6] + wrong + tag[10:] + encoded("mp3"))
    _check(samples, speech, 1)
    assert notes == []


def test_an_ape_tag_before_an_mp3_is_skipped(encoded, decode, speech):
    fields = struct.pack("<III", 2000, 400_032, 1)
    tag = b"APETAGEX" + fields + b"\0\0\0\xa0" + bytes(8) + b"q" * 400_000 + b"APETAGEX" + fields + b"\0\0\0\x80" + bytes(8)
    samples, notes = decode(tag + encoded("mp3"))
    _check(samples, speech, 1)
    assert notes == []


def test_titles_of_a_radio_stream_do_not_count_as_damage(encoded, decode, speech):
    mp3 = _untagged(encoded("mp3"))
    title = b"StreamTitle='Somebody - Something';".ljust(1600, b"\0")
    samples, notes = decode(mp3[:5000] + b"\x64" + title + mp3[5000:])
    _check(samples, speech, 1)
    assert "the title metadata of a radio stream interrupts the frames once: the sound there may be wrong" in notes


def _page(serial: int, flags: int, body: bytes) -> bytes:
    segments = bytes([255] * (len(body) // 255) + [len(body) % 255])
    header = b"OggS\0" + bytes([flags]) + bytes(8) + struct.pack("<III", serial, 0, 0) + bytes([len(segments)]) + segments
    return header + body


def test_an_ogg_stream_without_audio_is_skipped(encoded, decode, speech):
    video = _page(7, 2, b"\x80theora" + bytes(40)) + _page(7, 4, bytes(300))
    samples, notes = decode(encoded("ogg vorbis") + video + encoded("ogg opus"))
    _check(samples, speech, 2)
    assert notes == ["skipped 1 stream without audio, of 3 in this Ogg file", JOINED]


@pytest.mark.parametrize("code", [b"enca", b"drms"])
def test_codes_for_encryption_elsewhere_in_an_m4a_are_ignored(code, encoded, decode, speech):
    m4a = encoded("m4a")
    text = struct.pack(">I", 28) + b"free" + code * 5
    samples, notes = decode(m4a + text)
    _check(samples, speech, 1)
    assert notes == []
    with pytest.raises(AudioError, match="encrypted"):
        decode(m4a.replace(b"mp4a", code, 1))


def test_errors_for_separate_stream_segments_suggest_joining_them(encoded, decode, speech):
    data = encoded("m4a fragmented")
    media = data.index(b"moof") - 4
    with pytest.raises(AudioError, match=r"media segment .* without its initialisation segment: join"):
        decode(data[media:])
    with pytest.raises(AudioError, match=r"cut off: .* no samples: .* join"):
        decode(data[:media])
    samples, notes = decode(data)
    _check(samples, speech, 1)
    assert notes == []


def test_an_mp3_shorter_than_a_tag_raises_an_audio_error(encoded, decode):
    with pytest.raises(AudioError, match="not audio in a known format"):
        decode(_untagged(encoded("mp3"))[:100])


def test_a_negative_sphere_sample_count_gives_samples_or_an_audio_error(encoded, decode, speech):
    sphere = encoded("sphere").replace(b"sample_count -i %d" % len(speech), b"sample_count -i -%d" % (len(speech) // 10), 1)
    try:
        samples, _ = decode(sphere)
    except AudioError:
        return
    assert len(samples) > 0


@pytest.mark.parametrize("format", FIRST)
def test_parts_planned_for_a_damaged_file_lie_in_order_within_it(format, encoded, tmp_path):
    rng = np.random.default_rng(len(format))
    data = encoded(format) + encoded("flac")
    path = tmp_path / "file"
    for _ in range(40):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 10)):
            at = int(rng.integers(len(damaged) if rng.random() < 0.5 else 200))
            count = int(rng.integers(1, 3000))
            replacements = [b"", bytes(4), b"\xff" * 4, rng.bytes(300), damaged[at : at + 2 * count]]
            damaged[at : at + count] = replacements[rng.integers(5)]
        path.write_bytes(damaged)
        with contextlib.suppress(AudioError), opened(path) as source:
            parts = plan_file(source, "file").parts
            offsets = [0, *(offset for part in parts for offset in (part.start, part.end)), source.size]
            assert offsets == sorted(offsets), parts


@pytest.mark.parametrize(
    "format, tail",
    [("flac", b"\xff\xf9" * 200_000), ("ogg opus", b"OggS" * 2_000_000), ("mp3", b"ID3\3\0\0\0\0\0\0" * 100_000)],
    ids=["FLAC frames", "Ogg pages", "ID3 tags"],
)
def test_false_frame_headers_cost_little_time(format, tail, encoded, decode):
    begin = time.process_time()
    with contextlib.suppress(AudioError):
        decode(encoded(format) + tail)
    assert time.process_time() - begin < 3.0

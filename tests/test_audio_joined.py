"""What follows a recording in its file is decoded or named, whatever its kind; tags and chunks are not damage."""

import contextlib
import struct
import time

import numpy as np
import pytest
from encoded_audio import encode, id3v2, riff
from test_audio_faults import _decoded, _lag_seconds

from hubert_fast import demo
from hubert_fast.audio import AudioError, load
from hubert_fast.audio.opening import opened
from hubert_fast.audio.plans import plan_of

JOINED = "2 recordings were joined in this file: all are decoded, one after the other"
FIRST = (
    "wav", "wav 24 bit", "rf64", "w64", "aiff", "au", "caf", "sphere", "flac", "mp3", "mp2", "ogg vorbis", "ogg opus", "m4a",
    "m4a fragmented", "mov", "webm", "mkv", "wma", "avi", "aac", "flv", "mpeg-ts", "ac3", "wavpack", "tta",
)  # fmt: skip
SECOND = ("wav", "flac", "mp3", "ogg opus", "m4a", "webm", "wma")
ID3V1 = b"TAG" + b"x" * 125
NOISE = np.random.default_rng(0).bytes(20_000)
OTHERS = {"a PNG image": b"\x89PNG\r\n\x1a\n" + NOISE, "a zip archive": b"PK\x03\x04" + NOISE}


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load(demo.RECORDINGS / "steps.wav")


@pytest.fixture(scope="module")
def encoded(speech):
    made: dict[str, bytes] = {}

    def get(format: str) -> bytes:
        if format not in made:
            made[format] = encode(speech, format)
        return made[format]

    return get


@pytest.fixture
def decode(tmp_path):
    """Return a function from a file's bytes to its samples and notes, without the path."""

    def decoded(data: bytes, **options) -> tuple[np.ndarray, list[str]]:
        path = tmp_path / "file"
        path.write_bytes(data)
        samples, notes = _decoded(path, **options)
        return samples, [note.removeprefix(f"{path}: ") for note in notes]

    return decoded


def _check(samples: np.ndarray, speech: np.ndarray, count: int, seconds: float = 0.03) -> None:
    """Hold a decoded file to the same speech ``count`` times. seconds: that times may be off."""
    assert abs(len(samples) / 16000 - count * len(speech) / 16000) <= 0.1 * count
    for number in range(count):
        at = number * len(speech)
        lag = _lag_seconds(samples[at : at + len(speech)], speech)
        assert abs(lag) <= seconds, f"recording {number + 1} is {1000 * lag:.0f} ms off"


def _untagged(mp3: bytes) -> bytes:
    """Drop the frame that says how many others follow."""
    return mp3[mp3.index(b"\xff", 4) :] if mp3.find(b"Xing", 0, 400) < 0 and mp3.find(b"Info", 0, 400) < 0 else _after_tag(mp3)


def _after_tag(mp3: bytes) -> bytes:
    end = mp3.index(mp3[:2], 100)
    while mp3[end + 2] & 0x0C != mp3[2] & 0x0C:
        end = mp3.index(mp3[:2], end + 1)
    return mp3[end:]


def _tagged(mp3: bytes, frames: int) -> bytes:
    at = max(mp3.find(b"Xing", 0, 400), mp3.find(b"Info", 0, 400))
    return mp3[: at + 8] + struct.pack(">I", frames) + mp3[at + 12 :]


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("first", FIRST)
def test_recordings_of_two_kinds_in_a_file(first, second, encoded, decode, speech):
    samples, notes = decode(encoded(first) + encoded(second))
    # an encoder's padding stays where a format does not tell it
    _check(samples, speech, 2, 0.11)
    assert notes == [JOINED]


@pytest.mark.parametrize("kinds", [("ogg opus", "flac", "ogg vorbis"), ("flac", "ogg opus", "flac"), ("mp3", "wav", "mp3")])
def test_three_recordings_of_several_kinds(kinds, encoded, decode, speech):
    samples, notes = decode(b"".join(map(encoded, kinds)))
    _check(samples, speech, 3, 0.11)
    assert notes == [JOINED.replace("2", "3")]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("first", FIRST)
def test_what_is_no_audio_is_named_and_left_out(first, other, encoded, decode, speech):
    samples, notes = decode(encoded(first) + OTHERS[other])
    _check(samples, speech, 1)
    assert notes == [f"the last {len(OTHERS[other]):,} bytes are {other}, and are left out"]


@pytest.mark.parametrize("first", ["flac", "ogg opus", "tta", "wavpack", "mp3", "aac"])
def test_junk_between_recordings(first, encoded, decode, speech):
    samples, notes = decode(encoded(first) + b"\x01" * 3001 + encoded("wav"))
    _check(samples, speech, 2, 0.11)
    assert notes == ["3,001 bytes between recordings are not audio, and are left out", JOINED][first == "flac" :]


def test_flac_of_unknown_length_and_a_wav(encoded, decode, speech):
    flac = bytearray(encoded("flac"))
    flac[21:26] = bytes([flac[21] & 0xF0, 0, 0, 0, 0])
    samples, notes = decode(bytes(flac) + encoded("wav"))
    _check(samples, speech, 2)
    assert notes == [JOINED]


@pytest.mark.parametrize("first, lost", [("flac", 3000), ("ogg opus", 300), ("wav", 20_000)])
@pytest.mark.parametrize("second", ["wav", "flac", "ogg opus", "m4a"])
def test_a_cut_off_recording_before_another_is_an_error(first, lost, second, encoded, decode, speech):
    data = encoded(first)[:-lost] + encoded(second)
    with pytest.raises(AudioError, match=r"cut off|damaged"):
        decode(data)
    samples, notes = decode(data, keep_truncated=True)
    assert 1.6 * len(speech) < len(samples) < 2.01 * len(speech)
    assert abs(_lag_seconds(samples[-len(speech) :], speech)) <= 0.11
    assert JOINED in notes


def test_several_chunks_of_samples_are_all_decoded(speech, decode):
    pcm = (speech * 32767).round().astype("<i2").tobytes()
    first, second = (b"data", pcm[:40_000]), (b"data", pcm[40_000:])
    note = ["the samples are in 2 chunks: all are decoded, one after the other"]
    for chunks in ([first, second], [first, (b"LIST", b"INFOabcd"), second], [(b"LIST", b"wavl" + riff(first, second))]):
        samples, notes = decode(_wav(*chunks))
        np.testing.assert_array_equal(np.round(samples * 32768), np.frombuffer(pcm, "<i2"))
        assert notes == note
    samples, _ = decode(_wav((b"data", b""), (b"data", pcm)))
    np.testing.assert_array_equal(np.round(samples * 32768), np.frombuffer(pcm, "<i2"))
    with pytest.raises(AudioError, match=r"cut off: [\d,]+ bytes of samples by its last chunk, but there are"):
        decode(_wav(first, second)[:-10_000])


def _wav(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WAVE" + riff((b"fmt ", struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)), *chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("picture_bytes", [100, 300_000, 3_000_000])
@pytest.mark.parametrize("has_info", [True, False], ids=["Info", "bare"])
def test_tags_between_mp3s_are_no_damage(picture_bytes, has_info, encoded, decode, speech):
    mp3 = encoded("mp3") if has_info else _untagged(encoded("mp3"))
    tag = id3v2(picture_bytes)
    samples, notes = decode(tag + mp3 + ID3V1 + tag + mp3 + ID3V1)
    _check(samples, speech, 2, 0.11)
    assert notes == [JOINED]


@pytest.mark.parametrize("frames", [20, 400_000])
def test_a_tag_whose_frames_and_bytes_disagree_is_not_believed(frames, encoded, decode, speech):
    samples, notes = decode(_tagged(encoded("mp3"), frames))
    _check(samples, speech, 1)
    assert len(notes) == 1 and notes[0].endswith("s: all are decoded") and notes[0].startswith("the header says ")


def test_a_delay_that_no_encoder_has_is_not_believed(encoded, decode, speech):
    mp3 = encoded("mp3 44.1 kHz")
    at = mp3.index(b"Lav", mp3.index(b"Info" if b"Info" in mp3[:400] else b"Xing")) + 21
    samples, notes = decode(mp3[:at] + b"\xff\xff\xff" + mp3[at + 3 :])
    _check(samples, speech, 1)
    assert notes == []


def test_zeros_after_a_part_of_an_mp3_are_what_is_missing(encoded, decode):
    mp3 = encoded("mp3")
    with pytest.raises(AudioError, match=r"cut off: 2\.5 s long by its header, but it ends after 1"):
        decode(mp3[: len(mp3) // 2] + bytes(2 * len(mp3)))


@pytest.mark.parametrize("size", ["plain number", "too small", "too large", "beyond the file"])
def test_an_id3_tag_that_says_a_wrong_size(size, encoded, decode, speech):
    tag = id3v2(400_000)
    count = len(tag) - 10
    if size == "plain number":
        wrong = struct.pack(">I", count)
    else:
        count = {"too small": 1000, "too large": count + 3000, "beyond the file": count + 5_000_000}[size]
        wrong = bytes(count >> shift & 0x7F for shift in (21, 14, 7, 0))
    samples, notes = decode(tag[:6] + wrong + tag[10:] + encoded("mp3"))
    _check(samples, speech, 1)
    assert notes == []


def test_an_ape_tag_before_an_mp3(encoded, decode, speech):
    fields = struct.pack("<III", 2000, 400_032, 1)
    tag = b"APETAGEX" + fields + b"\0\0\0\xa0" + bytes(8) + b"q" * 400_000 + b"APETAGEX" + fields + b"\0\0\0\x80" + bytes(8)
    samples, notes = decode(tag + encoded("mp3"))
    _check(samples, speech, 1)
    assert notes == []


def test_titles_of_a_radio_station_are_no_damage(encoded, decode, speech):
    mp3 = _untagged(encoded("mp3"))
    title = b"StreamTitle='Somebody - Something';".ljust(1600, b"\0")
    samples, notes = decode(mp3[:5000] + b"\x64" + title + mp3[5000:])
    _check(samples, speech, 1)
    assert "a radio station's title interrupts a frame once: the sound there may be wrong" in notes


def _page(serial: int, flags: int, body: bytes) -> bytes:
    segments = bytes([255] * (len(body) // 255) + [len(body) % 255])
    header = b"OggS\0" + bytes([flags]) + bytes(8) + struct.pack("<III", serial, 0, 0) + bytes([len(segments)]) + segments
    return header + body


def test_an_ogg_stream_without_audio_is_skipped(encoded, decode, speech):
    video = _page(7, 2, b"\x80theora" + bytes(40)) + _page(7, 4, bytes(300))
    samples, notes = decode(encoded("ogg vorbis") + video + encoded("ogg opus"))
    _check(samples, speech, 2)
    assert notes == ["1 of the 3 streams in this Ogg file had no audio and was skipped", JOINED]


@pytest.mark.parametrize("mark", [b"enca", b"drms"])
def test_letters_that_mark_encryption_elsewhere_in_an_m4a(mark, encoded, decode, speech):
    m4a = encoded("m4a")
    text = struct.pack(">I", 28) + b"free" + mark * 5
    samples, notes = decode(m4a + text)
    _check(samples, speech, 1)
    assert notes == []
    with pytest.raises(AudioError, match="encrypted"):
        decode(m4a.replace(b"mp4a", mark, 1))


def test_segments_of_a_stream_without_each_other(encoded, decode, speech):
    data = encoded("m4a fragmented")
    media = data.index(b"moof") - 4
    with pytest.raises(AudioError, match=r"media segment .* without its initialisation segment: join"):
        decode(data[media:])
    with pytest.raises(AudioError, match=r"cut off: .* no samples: .* join"):
        decode(data[:media])
    samples, notes = decode(data)
    _check(samples, speech, 1)
    assert notes == []


def test_an_mp3_shorter_than_a_tag_is_an_error_of_audio(encoded, decode):
    with pytest.raises(AudioError, match="not audio in a format that is known"):
        decode(_untagged(encoded("mp3"))[:100])


def test_a_sphere_file_that_claims_less_than_nothing(encoded, decode, speech):
    sphere = encoded("sphere").replace(b"sample_count -i %d" % len(speech), b"sample_count -i -%d" % (len(speech) // 10), 1)
    try:
        samples, _ = decode(sphere)
    except AudioError:
        return
    assert len(samples) > 0


@pytest.mark.parametrize("format", FIRST)
def test_plans_of_damaged_files_stay_within_them(format, encoded, tmp_path):
    rng = np.random.default_rng(len(format))
    data = encoded(format) + encoded("flac")
    path = tmp_path / "file"
    for _ in range(40):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 10)):
            at = int(rng.integers(len(damaged) if rng.random() < 0.5 else 200))
            count = int(rng.integers(1, 3000))
            others = [b"", bytes(4), b"\xff" * 4, rng.bytes(300), damaged[at : at + 2 * count]]
            damaged[at : at + count] = others[rng.integers(5)]
        path.write_bytes(damaged)
        with contextlib.suppress(AudioError), opened(path) as source:
            parts = plan_of(source, "file").parts
            places = [0, *(place for part in parts for place in (part.start, part.end)), source.size]
            assert places == sorted(places), parts


@pytest.mark.parametrize(
    "format, tail",
    [("flac", b"\xff\xf9" * 200_000), ("ogg opus", b"OggS" * 2_000_000), ("mp3", b"ID3\3\0\0\0\0\0\0" * 100_000)],
    ids=["FLAC frames", "Ogg pages", "ID3 tags"],
)
def test_what_looks_like_frames_takes_little_time(format, tail, encoded, decode):
    begin = time.process_time()
    with contextlib.suppress(AudioError):
        decode(encoded(format) + tail)
    assert time.process_time() - begin < 3.0

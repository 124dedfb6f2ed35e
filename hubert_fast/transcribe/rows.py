"""What a row of a list says: its audio, the part of it, its text and its id, under the names that are common for them.

Knows NeMo's manifests, tables of Hugging Face, Common Voice, DeepSpeech, SpeechBrain, WeNet and fairseq, and Lhotse's cuts
and recordings. What is wrong with a text never costs the transcription; what is wrong with the audio or its part is an error.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..audio import AUDIO_SUFFIXES
from .list_text import repaired
from .parts import DURATIONS, OFFSETS, WrongRow, duration_of, is_unknown, offset_of, part_of

# Names that lists in the wild have for each field, the common ones first. They are compared in small letters.
FIELDS = {
    "audio": tuple(
        "audio_filepath audio path file filename wav file_name audio_path audio_file audio_filename audiofile filepath "
        "file_path wav_path wav_filepath wav_filename wav_file audio_url url uri flac mp3 speech sound".split()
    ),
    "offset_seconds": OFFSETS,
    "duration_seconds": DURATIONS,
    "reference": tuple(
        "text reference transcript transcription sentence normalized_text raw_text raw_transcription wrd txt words tgt_text "
        "target_text ref".split()
    ),
    "id": tuple("id utt_id utterance_id utt uttid audio_id segment_id sample_id key".split()),
}
INNER = ("path", "file", "filename", "file_name", "url", "src", "source", "audio_filepath", "wav")  # of {"audio": {...}}
SAMPLES = ("array", "bytes")
CHANNELS = ("channel", "channel_selector", "channel_id", "channel_index")


class Entry(NamedTuple):
    """A row of a list, or what is wrong with it.

    line: its number from 1, of lines or rows. channel: the one to take, from 0; ``None`` is all. is_command: ``audio`` is a
    shell command that writes audio. root: the folder that the list says its paths are of. is_line: ``audio`` is a whole line,
    which may be a comment or more than a path. unread: what of the row is not read, as a line to say once of a list.
    """

    line: int
    audio: str = ""
    offset_seconds: float | None = None
    duration_seconds: float | None = None
    reference: str | None = None
    id: str | None = None
    error: str | None = None
    channel: int | None = None
    is_command: bool = False
    root: str | None = None
    is_line: bool = False
    unread: str | None = None


def names_audio(values: Mapping[str, Any]) -> bool:
    """Return whether an object is a row of its own: whether one of its fields names audio."""
    values = lowered(values)
    if _is_lhotse(values) or is_task(values):
        return True
    return _has_audio(values)


def is_task(fields: Mapping[str, Any]) -> bool:
    """Return whether an object is a task of Label Studio: ``{"id": 1, "data": {"audio": "a.wav"}}``."""
    data = fields.get("data")
    return isinstance(data, dict) and not _has_audio(fields) and _has_audio(lowered(data))


def names_file(value: Any) -> bool:
    """Return whether a value is a text that ends as names of audio do."""
    return isinstance(value, str) and os.path.splitext(value.strip())[1].lower() in AUDIO_SUFFIXES


def _has_audio(values: Mapping[str, Any]) -> bool:
    return any(isinstance(values.get(name), (str, list, dict)) and values[name] for name in FIELDS["audio"])


def _is_lhotse(fields: Mapping[str, Any]) -> bool:
    kinds = {"recording": (dict, str), "sources": list, "tracks": list}
    return any(isinstance(fields.get(name), kind) for name, kind in kinds.items())


def lowered(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields by their names in small letters; of two that are alike the first is taken."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        fields.setdefault(str(name).strip().lower().replace(" ", "_").replace("-", "_"), value)
    return fields


def entry_of(line: int, values: Any, unit: str = "line", name: str | None = None) -> Entry:
    """Understand a row. unit: what ``line`` counts. name: an id that comes from outside of the row."""
    if isinstance(values, str):
        values = {"audio": values}
    if isinstance(values, list) and 0 < len(values) < 4 and names_file(values[0]):  # ["a.wav", "text"]
        values = {"audio": values[0], "text": values[-1] if len(values) > 1 else None}
    if not isinstance(values, dict):
        return Entry(line, error=f"{unit} {line} must be a JSON object, but is {type(values).__name__}")
    try:
        fields = lowered(values)
        if is_task(fields):
            fields = {"id": fields.get("id"), **lowered(fields["data"])}
        entry = _lhotse(line, fields) if _is_lhotse(fields) else _entry(line, fields)
    except WrongRow as wrong:
        separator = "" if str(wrong).startswith("must") else ":"
        return Entry(line, error=f"{unit} {line}{separator} {wrong}")
    return entry if entry.id is not None or name is None else entry._replace(id=name)


def _entry(line: int, fields: Mapping[str, Any]) -> Entry:
    audio = _audio(fields)
    offset, duration = part_of(fields)
    unread = _unread(fields)
    return Entry(line, _name("audio", audio), offset, duration, reference_of(fields), _id(fields), unread=unread)


def _unread(fields: Mapping[str, Any]) -> str | None:
    """Return what of a row means a part of its audio that is not taken, or ``None``."""
    segments = fields.get("segments")
    if isinstance(segments, list) and any(isinstance(each, dict) for each in segments):
        return (
            "the segments in its rows are not read, so whole files are transcribed: write a row with offset and duration each"
        )
    if any(_names_channel(fields.get(name)) for name in CHANNELS):
        return "the channel of its rows is not read (Lhotse's is), so it is --channels that decides"
    return None


def _names_channel(value: Any) -> bool:
    text = str(value).strip().lower()
    return not isinstance(value, (bool, list, dict)) and (text.isdecimal() or text in ("left", "right", "l", "r"))


def _audio(fields: Mapping[str, Any]) -> str:
    found = _first(fields, FIELDS["audio"])
    if isinstance(found, list):
        if len(found) != 1:
            raise WrongRow(f"must name one audio file, but has a list of {len(found)}: give each a row of its own")
        (found,) = found
    if isinstance(found, dict):
        inner = lowered(found)
        if {"start", "stop"} & inner.keys():
            raise WrongRow("the part is given in samples (start, stop): give offset and duration in seconds")
        found = _first(inner, INNER)
        if not isinstance(found, str) and any(inner.get(name) is not None for name in SAMPLES):
            raise WrongRow("the audio is in the list itself (array or bytes): write it to a file and name that")
    if not isinstance(found, str):
        expected = ", ".join(FIELDS["audio"][:8])
        raise WrongRow(f"must name its audio as a text {expected} or the like, but has {', '.join(fields) or 'nothing'}"[:500])
    return found


def reference_of(fields: Mapping[str, Any]) -> str | None:
    """Return what is said by a row, as text; ``None`` where there is none, or something that is no text."""
    texts = (_text(fields[name]) for name in FIELDS["reference"] if name in fields)
    return next(filter(None, texts), None)


def _text(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # of more than 4,300 digits
            return None
    if not isinstance(value, str):
        return None
    return repaired(value).encode("utf-8", "replace").decode("utf-8")  # half a character, as JSON can spell it


def _id(fields: Mapping[str, Any]) -> str | None:
    found = _first(fields, FIELDS["id"])
    if isinstance(found, (list, dict)):
        return None
    return None if found is None else _name("id", str(found))


def _name(field: str, text: str) -> str:
    if is_name(text):
        return text
    raise WrongRow(f"{FIELDS[field][0]} is no name that a file can have: {text!r}")


def is_name(text: str) -> bool:
    """Return whether a file can have this name: no NUL, and no half a character as JSON can spell it."""
    try:
        return b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _lhotse(line: int, fields: Mapping[str, Any]) -> Entry:
    """Understand a Lhotse cut, or one of its recordings."""
    if "tracks" in fields and not fields.get("recording"):
        raise WrongRow("this is a mix of several cuts: save them as audio with Lhotse, or name the cuts that it is made of")
    recording = fields.get("recording", fields)
    if isinstance(recording, str):
        return _entry(line, {**fields, "audio": recording})
    recording = lowered(recording) if isinstance(recording, dict) else {}
    changes = [each.get("name") for each in recording.get("transforms") or () if isinstance(each, dict)]
    if set(changes) - {"Resample"}:
        raise WrongRow(f"its recording is to be changed ({', '.join(map(str, changes))}): save it as audio with Lhotse")
    sources = [lowered(source) for source in recording.get("sources") or () if isinstance(source, dict)]
    channel = fields.get("channel")
    channel = channel if isinstance(channel, int) and not isinstance(channel, bool) else None
    source, channel = _source(sources, channel)
    audio, kind = source.get("source"), source.get("type", "file")
    if not isinstance(audio, str) or kind not in ("file", "url", "command"):
        raise WrongRow(f"its audio is of Lhotse's type {kind!r}, but must be a file, a url or a command: save it as a file")
    offset, duration = offset_of(fields, ("start",)), duration_of(fields, ("duration",))
    whole = duration_of(recording, ("duration",))
    if not offset and (duration is None or (whole is not None and abs(duration - whole) < 1e-6)):
        offset, duration = None, None
    said = [lowered(each) for each in fields.get("supervisions") or () if isinstance(each, dict)]
    said.sort(key=_start)
    texts = [text for each in said if (text := reference_of(each)) is not None]
    reference = " ".join(texts) if texts else reference_of(fields)
    return Entry(
        line, _name("audio", audio), offset, duration, reference, _id(fields), channel=channel, is_command=kind == "command"
    )


def _start(supervision: Mapping[str, Any]) -> float:
    start = supervision.get("start")
    return start if isinstance(start, (int, float)) and start == start else 0.0


def _source(sources: list[dict[str, Any]], channel: int | None) -> tuple[dict[str, Any], int | None]:
    """Return the source that holds a channel, and the channel's place in it; ``None`` where it is the only one."""
    if not sources:
        raise WrongRow("must name its recording's sources as Lhotse does, but has none")
    for source in sources:
        channels = source.get("channels")
        channels = channels if isinstance(channels, list) and channels else [0]
        if channel is None or channel in channels:
            if channel is None and len(sources) > 1:
                raise WrongRow(f"its recording has {len(sources)} files for its channels: name the one to take as channel")
            return source, channels.index(channel) if channel is not None and len(channels) > 1 else None
    raise WrongRow(f"its recording has no channel {channel}")


def _first(values: Mapping[str, Any], names: Iterable[str]) -> Any:
    """Return the first field that has a value; a missing one may be null, NaN or empty."""
    known = (values[name] for name in names if name in values)
    return next((value for value in known if value != "" and (isinstance(value, str) or not is_unknown(value))), None)

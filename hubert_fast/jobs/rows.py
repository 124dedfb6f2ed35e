"""Parse a row of a list: its audio, the selected part, its reference and its id, under the field names in common use.

The names are those of NeMo manifests, Hugging Face tables, Common Voice, DeepSpeech, SpeechBrain, WeNet, fairseq, and cuts and
recordings of Lhotse. A faulty reference never prevents transcription; faulty audio or a faulty part is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..audio.names import has_audio_suffix
from .list_text import repair_encoding
from .parts import DURATIONS, OFFSETS, InvalidRow, duration_of, is_missing, offset_of, part_of

# Names that lists use for each field, in lower case, the most common first.
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
PATH_FIELDS = ("path", "file", "filename", "file_name", "url", "src", "source", "audio_filepath", "wav")  # of {"audio": {...}}
SAMPLE_FIELDS = ("array", "bytes")
TEXT_SUFFIXES, MOST_TEXT_BYTES = (".txt", ".json"), 1 << 16  # of a file beside audio in a WebDataset shard
CHANNEL_FIELDS = ("channel", "channel_selector", "channel_id", "channel_index")


class Entry(NamedTuple):
    """A row of a list, or the error in it.

    Attributes:
        line: Its line or row, counted from 1.
        channel: The channel to transcribe, counted from 0; `None` means all of them.
        is_command: Whether `audio` is a shell command that writes audio to its standard output.
        root: The folder that the list declares its paths relative to.
        is_line: Whether `audio` is a whole line, which may be a comment or hold more than a path.
        note: A warning that part of the row is ignored, to be shown once per list.
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
    note: str | None = None


def is_row(values: Mapping[str, Any]) -> bool:
    """Return whether an object is a row itself, which means that one of its fields holds audio."""
    fields = normalize_names(values)
    return _is_lhotse(fields) or is_task(fields) or _has_audio(fields)


def is_task(fields: Mapping[str, Any]) -> bool:
    """Return whether an object is a Label Studio task, such as `{"id": 1, "data": {"audio": "a.wav"}}`."""
    data = fields.get("data")
    return isinstance(data, dict) and not _has_audio(fields) and _has_audio(normalize_names(data))


def is_audio_name(value: Any) -> bool:
    """Return whether a value is a string with the suffix of an audio file."""
    return isinstance(value, str) and has_audio_suffix(value.strip())


def _has_audio(fields: Mapping[str, Any]) -> bool:
    return any(isinstance(fields.get(name), (str, list, dict)) and fields[name] for name in FIELDS["audio"])


def _is_lhotse(fields: Mapping[str, Any]) -> bool:
    return isinstance(fields.get("recording"), (dict, str)) or any(
        isinstance(fields.get(name), list) for name in ("sources", "tracks")
    )


def normalize_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with their names in `lower_case`. Of fields whose names then coincide, keep the first."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        fields.setdefault(str(name).strip().lower().replace(" ", "_").replace("-", "_"), value)
    return fields


def parse_row(line: int, values: Any, unit: str = "line", name: str | None = None) -> Entry:
    """Parse a row.

    Args:
        line: The number of the row, for messages.
        values: The row as decoded from JSON or a table.
        unit: What `line` counts, `"line"` or `"row"`.
        name: The key of the row in an enclosing object, used as id if the row has none.
    """
    if isinstance(values, str):
        values = {"audio": values}
    if isinstance(values, list) and 0 < len(values) < 4 and is_audio_name(values[0]):  # ["a.wav", "text"]
        values = {"audio": values[0], "text": values[-1] if len(values) > 1 else None}
    if not isinstance(values, dict):
        return Entry(line, error=f"{unit} {line} must be a JSON object, but is {type(values).__name__}")
    try:
        fields = normalize_names(values)
        if is_task(fields):
            fields = {"id": fields.get("id"), **normalize_names(fields["data"])}
        entry = _lhotse_entry(line, fields) if _is_lhotse(fields) else _entry(line, fields)
    except InvalidRow as error:
        separator = "" if str(error).startswith("must") else ":"
        return Entry(line, error=f"{unit} {line}{separator} {error}")
    return entry if entry.id is not None or name is None else entry._replace(id=name)


def _entry(line: int, fields: Mapping[str, Any]) -> Entry:
    audio = _audio(fields)
    offset, duration = part_of(fields)
    note = _ignored(fields)
    return Entry(line, _valid_name("audio", audio), offset, duration, reference_of(fields), _id(fields), note=note)


def _ignored(fields: Mapping[str, Any]) -> str | None:
    """Return a warning if the row selects a part of its audio in a way that is not supported, else `None`."""
    segments = fields.get("segments")
    if isinstance(segments, list) and any(isinstance(segment, dict) for segment in segments):
        return (
            "the segments in its rows are ignored and whole files are transcribed: write one row per segment, with offset and "
            "duration"
        )
    if any(_is_channel(fields.get(name)) for name in CHANNEL_FIELDS):
        return "the channel in its rows is ignored, since only Lhotse's is supported: use --channels"
    return None


def _is_channel(value: Any) -> bool:
    text = str(value).strip().lower()
    return not isinstance(value, (bool, list, dict)) and (text.isdecimal() or text in ("left", "right", "l", "r"))


def _audio(fields: Mapping[str, Any]) -> str:
    audio = _first(fields, FIELDS["audio"])
    if isinstance(audio, list):
        if len(audio) != 1:
            raise InvalidRow(f"must name one audio file, but has a list of {len(audio)}: write one row per file")
        (audio,) = audio
    if isinstance(audio, dict):
        nested = normalize_names(audio)
        if {"start", "stop"} & nested.keys():
            raise InvalidRow("its part is given in samples (start, stop): use offset and duration in seconds")
        audio = _first(nested, PATH_FIELDS)
        if not isinstance(audio, str) and any(nested.get(name) is not None for name in SAMPLE_FIELDS):
            raise InvalidRow("its audio is stored in the list itself (array or bytes): write it to a file and give the path")
    if not isinstance(audio, str):
        expected = ", ".join(FIELDS["audio"][:8])
        present = ", ".join(fields) or "no fields"
        raise InvalidRow(f"must name its audio in a text field such as {expected}, but has {present}"[:500])
    return audio


def reference_of(fields: Mapping[str, Any]) -> str | None:
    """Return the reference of a row, or `None` if it has none that is text."""
    texts = (_text(fields[name]) for name in FIELDS["reference"] if name in fields)
    return next(filter(None, texts), None)


def reference_in_file(name: str, content: bytes) -> str | None:
    """Return the reference in a file beside audio: all of a `.txt`, or a field of the object in a `.json`.

    Raises:
        ValueError: If it is not UTF-8, or not JSON. Deeply nested JSON raises `RecursionError`.
    """
    text = content.decode("utf-8-sig")
    values = json.loads(text) if name.endswith(".json") else {"text": text.strip()}
    return reference_of(normalize_names(values)) if isinstance(values, dict) else None


def _text(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # more than 4,300 digits
            return None
    if not isinstance(value, str):
        return None
    return repair_encoding(value).encode("utf-8", "replace").decode("utf-8")  # JSON can escape a lone surrogate


def _id(fields: Mapping[str, Any]) -> str | None:
    id = _first(fields, FIELDS["id"])
    if isinstance(id, (list, dict)):
        return None
    return None if id is None else _valid_name("id", str(id))


def _valid_name(field: str, text: str) -> str:
    if is_valid_name(text):
        return text
    raise InvalidRow(f"{FIELDS[field][0]} is not a valid file name: {text!r}")


def is_valid_name(text: str) -> bool:
    """Return whether a file can have this name: it holds no NUL and no lone surrogate, which JSON can escape."""
    try:
        return b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def path_entry(line: int, path: str) -> Entry:
    """Return the entry for a path that stands on a line by itself."""
    if is_valid_name(path):
        return Entry(line, path)
    return Entry(line, error=f"line {line} is not a valid file name: {path[:200]!r}")


def _lhotse_entry(line: int, fields: Mapping[str, Any]) -> Entry:
    """Parse a Lhotse cut or recording."""
    if "tracks" in fields and not fields.get("recording"):
        raise InvalidRow("this is a mix of several cuts: save the mix as audio with Lhotse, or list its cuts instead")
    recording = fields.get("recording", fields)
    if isinstance(recording, str):
        return _entry(line, {**fields, "audio": recording})
    recording = normalize_names(recording) if isinstance(recording, dict) else {}
    transforms = [each.get("name") for each in recording.get("transforms") or () if isinstance(each, dict)]
    if set(transforms) - {"Resample"}:
        names = ", ".join(map(str, transforms))
        raise InvalidRow(f"its recording has transforms that are not supported ({names}): save it as audio with Lhotse")
    sources = [normalize_names(source) for source in recording.get("sources") or () if isinstance(source, dict)]
    channel = fields.get("channel")
    channel = channel if isinstance(channel, int) and not isinstance(channel, bool) else None
    source, channel = _source(sources, channel)
    audio, kind = source.get("source"), source.get("type", "file")
    if not isinstance(audio, str) or kind not in ("file", "url", "command"):
        raise InvalidRow(f"its audio source has the Lhotse type {kind!r}, but must be file, url or command: save it as a file")
    offset, duration = offset_of(fields, ("start",)), duration_of(fields, ("duration",))
    whole = duration_of(recording, ("duration",))
    if not offset and (duration is None or (whole is not None and abs(duration - whole) < 1e-6)):
        offset, duration = None, None
    supervisions = [normalize_names(each) for each in fields.get("supervisions") or () if isinstance(each, dict)]
    supervisions.sort(key=_start)
    texts = [text for each in supervisions if (text := reference_of(each)) is not None]
    reference = " ".join(texts) if texts else reference_of(fields)
    audio, id = _valid_name("audio", audio), _id(fields)
    return Entry(line, audio, offset, duration, reference, id, channel=channel, is_command=kind == "command")


def _start(supervision: Mapping[str, Any]) -> float:
    start = supervision.get("start")
    return start if isinstance(start, (int, float)) and start == start else 0.0


def _source(sources: list[dict[str, Any]], channel: int | None) -> tuple[dict[str, Any], int | None]:
    """Return the source that holds a channel and the index of the channel in it, which is `None` for its only one."""
    if not sources:
        raise InvalidRow("must list the sources of its recording, as Lhotse does, but has none")
    for source in sources:
        channels = source.get("channels")
        channels = channels if isinstance(channels, list) and channels else [0]
        if channel is None or channel in channels:
            if channel is None and len(sources) > 1:
                raise InvalidRow(f"its recording has {len(sources)} files for its channels: select one with the field channel")
            return source, channels.index(channel) if channel is not None and len(channels) > 1 else None
    raise InvalidRow(f"its recording has no channel {channel}")


def _first(values: Mapping[str, Any], names: Iterable[str]) -> Any:
    """Return the first of the named values that is not null, NaN or empty, or `None`."""
    present = (values[name] for name in names if name in values)
    return next((value for value in present if value != "" and (isinstance(value, str) or not is_missing(value))), None)

"""Format results as JSON, plain lines, tables or CTM in one file, as SRT, WebVTT or TextGrid in a file each, or as Parquet.

`FORMATS` lists the output formats. The command line reads it for `--help`, so this module must not import torch or pyarrow.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..jobs.formats import FileFormat, FolderFormat, FormatTable, RowFormat, notes_entry, table
from ..jobs.outcomes import by_channel
from ..jobs.parquet_format import parquet_format
from .textgrid import textgrid

if TYPE_CHECKING:
    from ..ctc import Word
    from ..jobs.parquet_columns import Columns
    from .results import Result, Transcript

LINE_CHARACTERS, LINES = 42, 2  # limits of a subtitle
CUE_SECONDS, PAUSE_SECONDS = 7.0, 0.8
COLUMNS = ("id", "audio", "start_seconds", "duration_seconds", "confidence", "text")


def rows_of(result: Result) -> Iterator[dict[str, Any]]:
    """Yield the fields of each transcript that are written as JSON; those that the transcript lacks are left out."""
    for id, channel, transcript in by_channel(result.utterance, result.transcripts):
        row: dict[str, Any] = {"id": id, "audio": result.utterance.audio}
        row |= {} if channel is None else {"channel": channel}
        row |= {"offset_seconds": result.utterance.offset_seconds} if result.utterance.offset_seconds else {}
        row |= {
            "duration_seconds": round(transcript.duration_seconds, 3),
            "text": transcript.text,
            "confidence": None if transcript.confidence is None else round(transcript.confidence, 4),
            "words": [
                {
                    "word": word.word,
                    "start_seconds": round(word.start_seconds, 3),
                    "end_seconds": round(word.end_seconds, 3),
                    "confidence": round(word.confidence, 4),
                }
                for word in transcript.words
            ],
        }
        row |= {} if result.utterance.reference is None else {"reference": result.utterance.reference}
        yield row | notes_entry(result)


def _objects(result: Result) -> Iterator[str]:
    """Yield a JSON object for each transcript."""
    return (json.dumps(row, ensure_ascii=False) for row in rows_of(result))


def jsonl(result: Result) -> str:
    """Return a JSON object for each transcript, one per line."""
    return "".join(f"{row}\n" for row in _objects(result))


def json_items(result: Result) -> str:
    """Return the items of a JSON array, each on its own line."""
    return ",".join(f"\n{row}" for row in _objects(result))


def txt(result: Result) -> str:
    """Return a line with id, tab and text for each transcript."""
    return "".join(
        f"{' '.join(id.split())}\t{transcript.text}\n" for id, _, transcript in by_channel(result.utterance, result.transcripts)
    )


def _cells(result: Result) -> list[tuple[str, ...]]:
    """Return the values of `COLUMNS` for each transcript."""
    rows: list[tuple[str, ...]] = []
    for id, _, transcript in by_channel(result.utterance, result.transcripts):
        confidence = "" if transcript.confidence is None else f"{transcript.confidence:.4f}"
        start, duration = f"{result.utterance.offset_seconds:.3f}", f"{transcript.duration_seconds:.3f}"
        rows.append((id, result.utterance.audio, start, duration, confidence, transcript.text))
    return rows


def tsv(result: Result) -> str:
    """Return tab-separated rows of `COLUMNS`; fields with tabs or quotes are quoted."""
    return table(_cells(result), "\t", "\n")


def comma_separated(result: Result) -> str:
    """Return comma-separated rows of `COLUMNS` as in RFC 4180: lines end in CR LF, and quotes within quotes are doubled."""
    return table(_cells(result), ",", "\r\n")


def ctm(result: Result) -> str:
    """Return a line for each word in NIST's CTM: recording, channel, start, duration, word, confidence.

    Times are in seconds. Spaces in names become %20.
    """
    name = "%20".join(result.utterance.id.split())
    return "".join(
        f"{name} {channel or 1} {word.start_seconds:.2f} {word.end_seconds - word.start_seconds:.2f} {word.word} "
        f"{word.confidence:.3f}\n"
        for _, channel, transcript in by_channel(result.utterance, result.transcripts)
        for word in transcript.words
    )


def _cues(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Yield the words of each subtitle, which has at most two lines, lasts at most seven seconds and has no long pause."""
    cue: list[Word] = []
    for word in words:
        if cue:
            lines = textwrap.wrap(" ".join(each.word for each in [*cue, word]), LINE_CHARACTERS)
            too_long = word.end_seconds - cue[0].start_seconds > CUE_SECONDS
            if len(lines) > LINES or too_long or word.start_seconds - cue[-1].end_seconds > PAUSE_SECONDS:
                yield cue
                cue = []
        cue.append(word)
    if cue:
        yield cue


def _lines(cue: Sequence[Word]) -> str:
    return "\n".join(textwrap.wrap(" ".join(word.word for word in cue), LINE_CHARACTERS))


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"


def srt(transcript: Transcript) -> str:
    """Return SubRip subtitles."""
    return "\n".join(
        f"{number}\n{_clock(cue[0].start_seconds, ',')} --> {_clock(cue[-1].end_seconds, ',')}\n{_lines(cue)}\n"
        for number, cue in enumerate(_cues(transcript.words), 1)
    )


def vtt(transcript: Transcript) -> str:
    """Return WebVTT subtitles."""
    cues = (
        f"\n{_clock(cue[0].start_seconds, '.')} --> {_clock(cue[-1].end_seconds, '.')}\n{_escaped(_lines(cue))}\n"
        for cue in _cues(transcript.words)
    )
    return "WEBVTT\n" + "".join(cues)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _bare(result: Result) -> str:
    """Return the text of each transcript on a line."""
    return "".join(f"{transcript.text}\n" for transcript in result.transcripts)


def each_transcript(text: Callable[[Transcript, float], str]) -> Callable[[Result], list[str]]:
    """Return a function that applies `text` to each transcript of a result and its offset in the recording in seconds."""
    return lambda result: [text(transcript, result.utterance.offset_seconds) for transcript in result.transcripts]


def _columns(transcriber: Any) -> Columns:
    from .parquet_columns import transcript_columns

    return transcript_columns()


# To add a format, add a row. Its key becomes a value of --format; everything else is derived from this table.
FORMATS: dict[str, RowFormat | FileFormat | FolderFormat] = {
    "jsonl": RowFormat("jsonl", "a JSON object per line", text=jsonl, is_json=True),
    "txt": RowFormat("txt", "name, tab and text per line", text=txt, bare=_bare),
    "tsv": RowFormat("tsv", "tab-separated table with a header", text=tsv, head=table([COLUMNS], "\t", "\n")),
    "csv": RowFormat("csv", "comma-separated table with a header", text=comma_separated, head=table([COLUMNS], ",", "\r\n")),
    "json": RowFormat("json", "a JSON array", text=json_items, head="[", between=",", tail="\n]\n", is_json=True),
    "ctm": RowFormat("ctm", "NIST time marks, a word per line", text=ctm),
    "srt": FileFormat("srt", "SubRip subtitles", contents=each_transcript(lambda transcript, offset_seconds: srt(transcript))),
    "vtt": FileFormat("vtt", "WebVTT subtitles", contents=each_transcript(lambda transcript, offset_seconds: vtt(transcript))),
    "textgrid": FileFormat("TextGrid", "Praat's TextGrid", contents=each_transcript(textgrid)),
    "parquet": parquet_format(_columns, has_notes=True),
}
TABLE = FormatTable(FORMATS, default="jsonl", on_standard_output="txt", done="transcribed")

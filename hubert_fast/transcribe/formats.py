"""Transcripts as text: JSON, plain lines, tables and CTM in one file; SRT, WebVTT and Praat's TextGrid in a file for each."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..ctc import Word
from .textgrid import textgrid
from .transcriber import Result, Transcript

LINE_CHARACTERS, LINES = 42, 2  # of a subtitle
CUE_SECONDS, PAUSE_SECONDS = 7.0, 0.8
COLUMNS = ("id", "audio", "start_seconds", "duration_seconds", "confidence", "text")


def _named(result: Result) -> Iterator[tuple[str, int | None, Transcript]]:
    """Give each transcript with its id, and its channel from 1 where channels have a transcript each."""
    each = len(result.transcripts) > 1
    for channel, transcript in enumerate(result.transcripts, 1):
        yield (f"{result.utterance.id}#{channel}", channel, transcript) if each else (result.utterance.id, None, transcript)


def _objects(result: Result) -> Iterator[str]:
    """Give a JSON object for each transcript."""
    for id, channel, transcript in _named(result):
        row = {"id": id, "audio": result.utterance.audio}
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
        row |= _notes(result)
        yield json.dumps(row, ensure_ascii=False)


def _notes(result: Result) -> dict[str, list[str]]:
    return {"notes": [*result.notes]} if result.notes else {}


def jsonl(result: Result) -> str:
    return "".join(f"{row}\n" for row in _objects(result))


def json_items(result: Result) -> str:
    """Return items of a JSON array, each on a line of its own."""
    return ",".join(f"\n{row}" for row in _objects(result))


def error_row(result: Result) -> str:
    """Return a failure as a JSON line."""
    row = {"id": result.utterance.id, "audio": result.utterance.audio, "error": result.error} | _notes(result)
    return json.dumps(row, ensure_ascii=False) + "\n"


def txt(result: Result) -> str:
    return "".join(f"{' '.join(id.split())}\t{transcript.text}\n" for id, _, transcript in _named(result))


def _table(rows: Sequence[Sequence[str]], delimiter: str, end: str) -> str:
    table = io.StringIO()
    csv.writer(table, delimiter=delimiter, lineterminator=end).writerows(rows)
    return table.getvalue()


def _cells(result: Result) -> list[tuple[str, ...]]:
    """Return the values of ``COLUMNS`` for each transcript."""
    rows = []
    for id, _, transcript in _named(result):
        confidence = "" if transcript.confidence is None else f"{transcript.confidence:.4f}"
        start, duration = f"{result.utterance.offset_seconds:.3f}", f"{transcript.duration_seconds:.3f}"
        rows.append((id, result.utterance.audio, start, duration, confidence, transcript.text))
    return rows


def tsv(result: Result) -> str:
    return _table(_cells(result), "\t", "\n")


def comma_separated(result: Result) -> str:
    """Return rows as RFC 4180 has them: lines end in CR and LF, quotes are doubled within quotes."""
    return _table(_cells(result), ",", "\r\n")


def ctm(result: Result) -> str:
    """Return NIST's time marks: recording, channel, start, duration, word, confidence. A space in a name is %20."""
    name = "%20".join(result.utterance.id.split())
    return "".join(
        f"{name} {channel or 1} {word.start_seconds:.2f} {word.end_seconds - word.start_seconds:.2f} {word.word} "
        f"{word.confidence:.3f}\n"
        for _, channel, transcript in _named(result)
        for word in transcript.words
    )


def _cues(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Give the words that are shown together: two lines at most, seven seconds, no longer pause within."""
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
    return "\n".join(
        f"{number}\n{_clock(cue[0].start_seconds, ',')} --> {_clock(cue[-1].end_seconds, ',')}\n{_lines(cue)}\n"
        for number, cue in enumerate(_cues(transcript.words), 1)
    )


def vtt(transcript: Transcript) -> str:
    cues = (
        f"\n{_clock(cue[0].start_seconds, '.')} --> {_clock(cue[-1].end_seconds, '.')}\n{_escaped(_lines(cue))}\n"
        for cue in _cues(transcript.words)
    )
    return "WEBVTT\n" + "".join(cues)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@dataclass(frozen=True)
class RowFormat:
    """A format that holds all utterances in one file.

    text: returns the rows of a result. head: begins the file. between: parts results. tail: ends the file, and is not there
    while a run is at work. is_json: rows are JSON, so they carry notes, and escapes for names that are no UTF-8.
    """

    text: Callable[[Result], str]
    head: str = ""
    between: str = ""
    tail: str = ""
    is_json: bool = False

    def end(self, is_empty: bool) -> str:
        """Return what ends a file, of which ``is_empty`` says that it has no rows."""
        return self.tail.lstrip() if is_empty else self.tail


@dataclass(frozen=True)
class FileFormat:
    """A format with a file for each transcript.

    suffix: of file names, without the dot. text: returns the file's text for a transcript and its offset in seconds.
    """

    suffix: str
    text: Callable[[Transcript, float], str]


ROWS = {
    "jsonl": RowFormat(jsonl, is_json=True),
    "txt": RowFormat(txt),
    "tsv": RowFormat(tsv, head=_table([COLUMNS], "\t", "\n")),
    "csv": RowFormat(comma_separated, head=_table([COLUMNS], ",", "\r\n")),
    "json": RowFormat(json_items, head="[", between=",", tail="\n]\n", is_json=True),
    "ctm": RowFormat(ctm),
}
FILES = {
    "srt": FileFormat("srt", lambda transcript, offset_seconds: srt(transcript)),
    "vtt": FileFormat("vtt", lambda transcript, offset_seconds: vtt(transcript)),
    "textgrid": FileFormat("TextGrid", textgrid),
}
FORMATS = (*ROWS, *FILES)
SUFFIXES = {f".{name}": name for name in ROWS} | {f".{file.suffix}": name for name, file in FILES.items()}

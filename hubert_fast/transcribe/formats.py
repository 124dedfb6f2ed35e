"""Transcripts as text: JSON lines, plain lines, tables, CTM, and the subtitle formats SRT and WebVTT."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterator, Sequence

from ..ctc import Word
from .transcriber import Result, Transcript

LINE_CHARACTERS, LINES = 42, 2  # of a subtitle
CUE_SECONDS, PAUSE_SECONDS = 7.0, 0.8
TSV_HEADER = ("id", "audio", "start_seconds", "duration_seconds", "confidence", "text")


def _named(result: Result) -> Iterator[tuple[str, int | None, Transcript]]:
    """Each transcript with its id, and its channel if there is one for each, from 1."""
    each = len(result.transcripts) > 1
    for channel, transcript in enumerate(result.transcripts, 1):
        yield (f"{result.utterance.id}#{channel}", channel, transcript) if each else (result.utterance.id, None, transcript)


def jsonl(result: Result) -> str:
    lines = []
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
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


def error_row(result: Result) -> str:
    """A failure as a JSON line."""
    row = {"id": result.utterance.id, "audio": result.utterance.audio, "error": result.error}
    return json.dumps(row, ensure_ascii=False) + "\n"


def txt(result: Result) -> str:
    return "".join(f"{' '.join(id.split())}\t{transcript.text}\n" for id, _, transcript in _named(result))


def tsv(result: Result) -> str:
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    for id, _, transcript in _named(result):
        confidence = "" if transcript.confidence is None else f"{transcript.confidence:.4f}"
        start, duration = f"{result.utterance.offset_seconds:.3f}", f"{transcript.duration_seconds:.3f}"
        writer.writerow((id, result.utterance.audio, start, duration, confidence, transcript.text))
    return table.getvalue()


def ctm(result: Result) -> str:
    """NIST's time-marked conversations: recording, channel, start, duration, word, confidence. A space in a name is %20."""
    name = "%20".join(result.utterance.id.split())
    return "".join(
        f"{name} {channel or 1} {word.start_seconds:.2f} {word.end_seconds - word.start_seconds:.2f} {word.word} "
        f"{word.confidence:.3f}\n"
        for _, channel, transcript in _named(result)
        for word in transcript.words
    )


def _cues(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Words that are shown together: two lines at most, seven seconds, no longer pause within."""
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


ROWS = {"jsonl": jsonl, "txt": txt, "tsv": tsv, "ctm": ctm}  # one file for all utterances
FILES = {"srt": srt, "vtt": vtt}  # a file for each
FORMATS = (*ROWS, *FILES)

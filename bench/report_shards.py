"""Write the blocks on shards: kills, speed, memory, the limits of each part, and what they mean for large archives."""

from __future__ import annotations

from pathlib import Path

from report_gpu import EAGER, MIXED, ours_and_theirs, timed
from report_rows import Row, newest, table, where
from report_transcribe import counted

from hubert_fast.benchmark.rows import read

NO_ROWS = "Not measured yet.\n"
HOURS, GPUS = (1_000, 100_000, 1_000_000), (1, 8, 64)
UTTERANCE_SECONDS = 7.0  # about the mean of LibriSpeech's test sets
BYTES_PER_SECOND = 20_000  # of speech at 16 kHz in FLAC; WAV has 32,000
SHARD_BYTES, REQUEST_BYTES = 1e9, 8 << 20  # the second is `streams.BLOCK_BYTES`
WRITES_PER_SHARD = 3  # its rows, its failures and its entry
READ_DOLLARS, WRITE_DOLLARS = 0.0004 / 1000, 0.005 / 1000  # per request, S3 standard
TRANSFER_DOLLARS = 0.02  # per gigabyte from another region


def rows_of(results: Path, section: str) -> list[Row]:
    """Return the rows of a section, from the last run of each case."""
    path = results / f"shards_{section}.csv"
    return newest(read(path), "case") if path.exists() else []


def shard_kills(results: Path) -> str:
    """Tabulate what kills cost."""
    rows = rows_of(results, "kills")
    if not rows:
        return NO_ROWS
    names = ("kills", "kills_with_progress", "rows", "missing", "doubled", "differing")
    lines = [[row["case"], *(f"{int(row[name]):,}" for name in names)] for row in rows]
    header = ["killed", "kills", "of them after new shards", "rows", "missing", "twice", "other text than from files"]
    first = rows[0]
    return (
        f"{table(header, lines)}\n"
        f"{first['shards']} tar archives with {int(first['clips']):,} clips. Each kill is a SIGKILL at a random moment; a "
        f"killed command was started again ({where(first)}, Ray {first['ray']}).\n"
    )


def shard_speed(results: Path) -> str:
    """Tabulate the speed from shards to rows against the model alone."""
    rows = rows_of(results, "speed")
    if not rows:
        return NO_ROWS
    lines = [
        [row["case"], f"{float(row['rtfx']):.1f}", f"{100 * float(row['share_of_model_alone']):.0f}%",
         f"{100 * float(row['share_of_model_alone_by_minima']):.0f}%"]
        for row in rows
    ]  # fmt: skip
    first = rows[0]
    return (
        f"{table(['case', 'times real time', 'share of the model alone', 'by the least times'], lines)}\n"
        f"The demo model in float32, {first['shards']} shards with {int(first['clips']):,} utterances and "
        f"{float(first['audio_seconds']) / 60:.0f} minutes of audio; medians of {counted(first['rounds'], 'round')}, in turn "
        f"({where(first)}).\n"
    )


def shard_memory(results: Path) -> str:
    """Tabulate the peak memory by the number of shards."""
    path = results / "shards_memory.csv"
    rows = newest(read(path), "shards") if path.exists() else []
    if not rows:
        return NO_ROWS
    lines = [[row["shards"], f"{int(row['clips']):,}", f"{row['megabytes']} MB", f"{row['peak_megabytes']} MB"] for row in rows]
    return f"{table(['shards', 'utterances', 'in all', 'peak resident memory'], lines)}\n"


def shard_limits(results: Path) -> str:
    """Tabulate what each part sustains when the model takes no time."""
    rows = rows_of(results, "limits") + rows_of(results, "ray")
    if not rows:
        return NO_ROWS
    lines = []
    for row in rows:
        megabytes, rtfx = float(row["megabytes_per_s"]), float(row["rtfx"])
        amounts = [f"{megabytes:,.1f}" if megabytes else "", f"{rtfx:,.0f}" if rtfx else ""]
        cells = [f"{float(row['utterances_per_s']):,.0f}", *amounts]
        if "until the first" in row["case"]:
            cells = ["", "", ""]
        lines.append([row["case"], f"{float(row['p50_s']):.2f} s", *cells])
    first = rows[0]
    header = ["part", "took", "utterances a second", "megabytes a second", "times real time"]
    return (
        f"{table(header, lines)}\n"
        f"Medians of {counted(first['rounds'], 'round')} with a model that takes no time ({where(first)}, "
        f"Ray {first['ray']}).\n"
    )


def gpu_rate(results: Path) -> float:
    """Return how many times real time hubert-large runs on a GPU, at mixed lengths, by the last call that measured one."""
    ours, _ = ours_and_theirs(timed(results, model="large", lengths=MIXED, stage=EAGER))
    return float(ours["rtfx"])


def shard_scaling(results: Path) -> str:
    """Do the arithmetic for large archives."""
    gpu, limits = gpu_rate(results), {row["case"]: row for row in rows_of(results, "limits")}
    case = "one process, 10 s flac, 4 readers"
    if case not in limits:
        return NO_ROWS
    process = float(limits[case]["rtfx"])
    lines = []
    for hours in HOURS:
        gigabytes = hours * 3600 * BYTES_PER_SECOND / 1e9
        shards = max(gigabytes * 1e9 / SHARD_BYTES, 1)
        reads, writes = gigabytes * 1e9 / REQUEST_BYTES, WRITES_PER_SHARD * shards
        requests = reads * READ_DOLLARS + writes * WRITE_DOLLARS
        for count in GPUS:
            seconds = hours * 3600 / count
            traffic = count * gpu * BYTES_PER_SECOND / 1e9
            lines.append(
                [f"{hours:,}", str(count), took(seconds / gpu), took(seconds / min(process, gpu)), f"{traffic:.1f} GB/s",
                 f"{reads + writes:,.0f}", f"${requests:,.2f}", f"${gigabytes * TRANSFER_DOLLARS:,.0f}"]
            )  # fmt: skip
    needed, shard_rate = gpu / UTTERANCE_SECONDS, max(GPUS) * gpu * BYTES_PER_SECOND / SHARD_BYTES
    driver = {row["case"]: row for row in rows_of(results, "ray")}.get("Ray, 2 actors, shards of 1")
    handed = "" if driver is None else (
        f" {max(GPUS)} GPUs finish {shard_rate:.0f} such shards a second; one driver handed out "
        f"{float(driver['utterances_per_s']):.0f} a second to two actors, which bounded that rate."
    )  # fmt: skip
    header = [
        "hours", "GPUs", f"at {gpu:,.0f} times real time each", f"at {process:,.0f}", "traffic at the first rate", "requests",
        "their cost", "transfer from another region",
    ]  # fmt: skip
    return (
        f"{table(header, lines)}\n"
        f"The first rate is measured: hubert-large alone, in bfloat16, on one H200. The second is a prediction: what one "
        f"process on the two cores above reads and decodes of FLAC, if the model takes no time and there is such a process for "
        f"each GPU. Assumed: FLAC with {BYTES_PER_SECOND / 1000:.0f} kB for a second of audio, shards of "
        f"{SHARD_BYTES / 1e9:.0f} GB, requests of {REQUEST_BYTES >> 20} MiB, ${1000 * READ_DOLLARS:.4f} and "
        f"${1000 * WRITE_DOLLARS:.3f} for 1,000 reads and writes, ${TRANSFER_DOLLARS:.2f} for a gigabyte from another region. "
        f"At the first rate each GPU takes {needed:,.0f} utterances of {UTTERANCE_SECONDS:.0f} s and "
        f"{gpu * BYTES_PER_SECOND / 1e6:.0f} MB a second; the process took {float(limits[case]['utterances_per_s']):,.0f} "
        f"utterances of 10 s.{handed}\n"
    )


def took(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 5400:
        return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"

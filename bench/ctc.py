"""Time greedy CTC decoding, from ids to text with word times: `pytest bench/ctc.py`.

A pytest-benchmark suite that appends its rows to results/ctc.csv. With `--benchmark-disable` everything runs once and nothing
is written. The batch is 64 utterances of 1,500 frames over 32 tokens, with letter frequencies, word lengths and a share of
blanks as in speech. Providers: ours (C++ on one and two threads, and the Python fallback), transformers'
`batch_decode(output_word_offsets=True)`, and, if it is installed, flashlight's lexicon-free decoder with a beam of one
(tokens only: no text, no word times). Answers are compared before anything is timed. The ratio to transformers comes from
rounds of its own, in which the two alternate.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # hubert_fast, where it is not installed

import numpy as np
import pytest
import transformers

from hubert_fast.benchmark.rows import append, origin, percentiles
from hubert_fast.ctc import Vocabulary, decode_raw, greedy_decode

RESULTS = Path(__file__).resolve().parent / "results"
TOKENS = "<pad> <s> </s> <unk> | E T A O N I H S R D L U M W C F G Y P B V K ' X J Q Z".split()
VOCABULARY = Vocabulary(tuple(TOKENS), frozenset(range(4)))
UTTERANCES, FRAMES, DELIMITER = 64, 1500, 4


def frame_ids() -> np.ndarray:
    """Draw ids like the best ids of a recogniser, int64 `[B, T]`: tokens of one or two frames, then up to three blanks."""
    rng = np.random.default_rng(0)
    ids = np.zeros((UTTERANCES, FRAMES), np.int64)
    for row in ids:
        frame = letters = 0
        while frame < FRAMES:
            ends = letters >= 2 and rng.random() < 0.28
            token = DELIMITER if ends else 5 + min(26, int(rng.geometric(0.12)) - 1)
            letters = 0 if ends else letters + 1
            run = int(rng.integers(1, 3))
            row[frame : frame + run] = token
            frame += run + int(rng.integers(0, 4))
    return ids


IDS = frame_ids()
LENGTHS = np.full(UTTERANCES, FRAMES)
LOG_PROBS = -np.random.default_rng(1).random(IDS.shape).astype(np.float32)


def ours(threads: int, backend: str = "c++"):
    return greedy_decode(
        IDS, LENGTHS, VOCABULARY, blank_id=0, timestamps="word", log_probs=LOG_PROBS, threads=threads, backend=backend
    )


def flashlight():
    decoder = pytest.importorskip("flashlight.lib.text.decoder", reason="flashlight-text is not installed")
    options = decoder.LexiconFreeDecoderOptions(
        beam_size=1, beam_size_token=1, beam_threshold=50, lm_weight=0, sil_score=0, log_add=False,
        criterion_type=decoder.CriterionType.CTC,
    )  # fmt: skip
    greedy = decoder.LexiconFreeDecoder(options, decoder.ZeroLM(), DELIMITER, 0, [])
    emissions = np.full((UTTERANCES, FRAMES, len(TOKENS)), -10, np.float32)
    np.put_along_axis(emissions, IDS[..., None], 0, axis=-1)
    return lambda: [greedy.decode(row.ctypes.data, FRAMES, len(TOKENS))[0].tokens for row in emissions]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.json"
    path.write_text(json.dumps({token: id for id, token in enumerate(TOKENS)}))
    return transformers.Wav2Vec2CTCTokenizer(str(path))


@pytest.fixture(scope="module")
def measures(request):
    """Return whether to measure, which `--benchmark-disable` turns off."""
    return not request.config.getoption("benchmark_disable")


@pytest.fixture(scope="module")
def rounds(measures):
    """Return the number of rounds in which calls alternate."""
    return 25 if measures else 1


@pytest.fixture(scope="module")
def rows(measures):
    """Collect the rows of this run, and write them when it is over."""
    collected: list[dict] = []
    yield collected
    if measures:
        append(RESULTS / "ctc.csv", origin(transformers=transformers.__version__), collected)


def row(op: str, provider: str, threads: int, seconds: list[float], frames: int, ratio: float | str = "") -> dict:
    p20, p50, p80 = percentiles(seconds)
    return {
        "op": op,
        "provider": provider,
        "threads": threads,
        "frames": frames,
        "p20_ms": round(1e3 * p20, 3),
        "p50_ms": round(1e3 * p50, 3),
        "p80_ms": round(1e3 * p80, 3),
        "million_frames_per_second": round(frames / p50 / 1e6, 2),
        "ratio": ratio if ratio == "" else round(ratio, 2),
    }


def seconds_of(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turn(calls: list, rounds: int) -> list[list[float]]:
    """Call all of `calls` once in each round, and return the seconds that each took."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, seconds in zip(calls, times):
            seconds.append(seconds_of(call))
    return times


def test_the_answers_are_the_same(tokenizer):
    expected = tokenizer.batch_decode(IDS, output_word_offsets=True)
    for transcripts in (ours(1), ours(2), ours(1, "python")):
        assert [transcript.text for transcript in transcripts] == expected["text"]
        for transcript, offsets in zip(transcripts, expected["word_offsets"]):
            words = transcript.words
            assert [word.word for word in words] == [entry["word"] for entry in offsets]
            assert [round(word.start_seconds / 0.02) for word in words] == [entry["start_offset"] for entry in offsets]
            assert [round(word.end_seconds / 0.02) for word in words] == [entry["end_offset"] for entry in offsets]


PROVIDERS = {
    "hubert_fast C++, 1 thread": (1, lambda tokenizer: lambda: ours(1)),
    "hubert_fast C++, 2 threads": (2, lambda tokenizer: lambda: ours(2)),
    "hubert_fast Python": (1, lambda tokenizer: lambda: ours(1, "python")),
    "transformers": (1, lambda tokenizer: lambda: tokenizer.batch_decode(IDS, output_word_offsets=True)),
    "flashlight, beam of one, tokens only": (1, lambda tokenizer: flashlight()),
}


@pytest.mark.benchmark(group="ids to text with word times, 64 x 1,500 frames")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_provider(benchmark, tokenizer, rows, measures, provider):
    threads, make = PROVIDERS[provider]
    call = make(tokenizer)
    benchmark.pedantic(call, rounds=40 if seconds_of(call) < 0.02 else 9, warmup_rounds=2)
    if measures:
        rows.append(row("text with word times", provider, threads, benchmark.stats.stats.data, IDS.size))


def test_fifty_times_transformers_on_one_thread(tokenizer, rows, measures, rounds):
    times = in_turn([lambda: ours(1), lambda: tokenizer.batch_decode(IDS, output_word_offsets=True)], rounds)
    ratio = np.median(times[1]) / np.median(times[0])
    rows.append(row("text with word times, in turn with transformers", "hubert_fast C++", 1, times[0], IDS.size, ratio))
    rows.append(row("text with word times, in turn with transformers", "transformers", 1, times[1], IDS.size))
    assert not measures or ratio >= 50, f"{ratio:.0f} times transformers' speed"


@pytest.fixture(scope="module")
def ceiling(rows, rounds):
    """Measure the largest gain from a second thread on this machine: NumPy sorts two arrays in turn, then at the same time."""
    arrays = [np.random.default_rng(seed).integers(0, 1000, 500_000) for seed in range(2)]
    with ThreadPoolExecutor(2) as pool:
        times = in_turn([lambda: list(map(np.sort, arrays)), lambda: list(pool.map(np.sort, arrays))], rounds)
    ratio = np.median(times[0]) / np.median(times[1])
    for threads, seconds in enumerate(times, 1):
        rows.append(row("ceiling: sort two arrays", "numpy", threads, seconds, 1_000_000, ratio if threads == 2 else ""))
    return ratio


@pytest.mark.parametrize("words", [False, True], ids=["text", "text and words"])
def test_two_threads(rows, measures, rounds, ceiling, words):
    """Decode ten batches without creating Python objects for words, since threads would wait for the interpreter."""
    ids, log_probs, lengths = np.tile(IDS, (10, 1)), np.tile(LOG_PROBS, (10, 1)), np.tile(LENGTHS, 10)
    begins = np.arange(len(ids)) * FRAMES

    def core(threads: int):
        return decode_raw(ids, begins, lengths, VOCABULARY, 0, log_probs=log_probs, words=words, threads=threads, backend="c++")

    times = in_turn([lambda: core(1), lambda: core(2)], rounds)
    ratio = np.median(times[0]) / np.median(times[1])
    for threads, seconds in enumerate(times, 1):
        op = "text and word arrays" if words else "text"
        rows.append(row(f"{op}, ten batches", "hubert_fast C++", threads, seconds, ids.size, ratio if threads == 2 else ""))
    slow = f"{ratio:.2f} times as fast on two threads, where {ceiling:.2f} is possible"
    assert not measures or words or ratio >= 0.8 * ceiling, slow


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, *sys.argv[1:]]))

"""Test the stages between files and text: texts equal those of single files, whatever is slow, fails or lacks memory."""

import os
import threading
import tracemalloc
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import POST_LN, wait_until

from hubert_fast import HubertConfig, HubertForCTC, HubertProcessor, audio, demo
from hubert_fast.audio import AudioError
from hubert_fast.jobs import pipeline as pipeline_module
from hubert_fast.jobs.cutting import Cutter
from hubert_fast.jobs.lanes import CPU_FRAMES, Lane, cpu_lanes, is_out_of_memory
from hubert_fast.jobs.pipeline import Pipeline
from hubert_fast.jobs.queues import WeightedQueue
from hubert_fast.jobs.runner import Run
from hubert_fast.packed.audio import PackedAudio
from hubert_fast.transcribe import Inputs, Options, Transcriber, Utterance
from hubert_fast.transcribe.chunks import Frames, stitch

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture(scope="module")
def transcriber():
    return Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def alone(transcriber):
    """Return the text of each bundled recording, transcribed by itself."""
    texts = {}
    for recording in demo.recordings():
        batch = transcriber.processor([audio.load(recording.path)], sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            ids = transcriber.model(batch["input_values"]).logits[0].argmax(-1)
        texts[str(recording.path)] = transcriber.processor.decode(ids, skip_special_tokens=True)
    return texts


def _texts(results) -> dict[str, str]:
    return {result.utterance.audio: result.transcripts[0].text for result in results}


@pytest.mark.parametrize("batch_seconds", [0.1, 7, 64, 1000])
def test_texts_equal_those_of_files_transcribed_alone(transcriber, alone, batch_seconds):
    results = list(transcriber.transcribe_many([demo.RECORDINGS], batch_seconds=batch_seconds))
    assert len(results) == len(alone) and _texts(results) == alone
    for result in results:
        (transcript,) = result.transcripts
        assert " ".join(word.word for word in transcript.words) == transcript.text and 0 < transcript.confidence <= 1
        assert transcript.duration_seconds == pytest.approx(soundfile.info(result.utterance.audio).duration, abs=1e-3)
        ends = [0.0] + [time for word in transcript.words for time in (word.start_seconds, word.end_seconds)]
        assert ends == sorted(ends) and ends[-1] <= transcript.duration_seconds


def test_a_group_norm_model_gives_the_same_texts_in_a_batch(tmp_path):
    """In a padded batch its statistics would include the padding; in a packed one each utterance has its own."""
    torch.manual_seed(1)
    model = HubertForCTC(HubertConfig(**POST_LN)).eval()
    transcriber = Transcriber(model, HubertProcessor.from_tokens(["<pad>", "|", *(chr(65 + index) for index in range(30))]))
    paths = [recording.path for recording in demo.recordings()[:6]]
    texts = {str(path): transcriber.transcribe_file(path).text for path in paths}
    assert _texts(transcriber.transcribe_many(paths)) == texts and len(set(texts.values())) > 1


def test_ordered_results_are_in_the_order_of_the_inputs(transcriber, monkeypatch):
    """The first file is read last; if results are not ordered, only after those of the others have been returned."""
    real, others = audio.read_blocks, [recording.path for recording in demo.recordings()[:6]]
    read, go_on = [], threading.Event()

    def slow(path, *arguments, **options):
        if "long" in path:
            assert go_on.wait(60)
        blocks = real(path, *arguments, **options)
        read.append(path)
        if is_ordered and len(read) == len(others):
            go_on.set()
        return blocks

    monkeypatch.setattr(audio, "read_blocks", slow)
    paths, keywords = [demo.RECORDINGS / "long.flac", *others], dict(batch_seconds=5, workers=2)
    is_ordered = True
    ordered = [result.utterance.audio for result in transcriber.transcribe_many(paths, ordered=True, **keywords)]
    assert ordered == list(map(str, paths)) and read[-1] == str(paths[0])
    is_ordered, as_done = False, []
    go_on.clear()
    for result in transcriber.transcribe_many(paths, **keywords):
        as_done.append(result.utterance.audio)
        if len(as_done) == len(others):
            go_on.set()
    assert as_done[-1] == str(paths[0]), "one slow file held up the others"


def test_each_channel_has_a_transcript(transcriber, alone, tmp_path):
    first, second = demo.recordings()[0], demo.recordings()[5]
    left, right = audio.load(first.path), audio.load(second.path)
    both = np.zeros((max(len(left), len(right)), 2), np.float32)
    both[: len(left), 0], both[: len(right), 1] = left, right
    soundfile.write(tmp_path / "two.wav", both, 16000, subtype="FLOAT")
    (result,) = transcriber.transcribe_many([tmp_path / "two.wav"], channels="each")
    assert [transcript.text for transcript in result.transcripts] == [alone[str(first.path)], alone[str(second.path)]]
    (chunked,) = transcriber.transcribe_many([tmp_path / "two.wav"], channels="each", chunk_seconds=2, overlap_seconds=1)
    assert len(chunked.transcripts) == 2
    with pytest.raises(ValueError, match="channels must be 'mix' for one result, but is 'each': use transcribe_many"):
        transcriber.transcribe_file(tmp_path / "two.wav", channels="each")


def _bad_files(folder: Path) -> dict[str, str]:
    """Create a bad file of every kind; return the expected error by name."""
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("not audio\n" * 100)
    (folder / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(5000))
    soundfile.write(folder / "short.wav", np.zeros(399), 16000)
    soundfile.write(folder / "none.wav", np.zeros(0), 16000)
    soundfile.write(folder / "nan.wav", np.where(np.arange(40_000) == 39_000, np.nan, 0.1), 16000, subtype="FLOAT")
    soundfile.write(folder / "cut.wav", 0.1 * np.random.default_rng(0).standard_normal(48000), 16000)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:50_000])
    soundfile.write(folder / "cut.flac", 0.1 * np.random.default_rng(0).standard_normal(480_000), 16000)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:500_000])
    header = bytearray((folder / "short.wav").read_bytes())
    header[22:24] = (0).to_bytes(2, "little")
    (folder / "no channels.wav").write_bytes(header)
    header[22:24], header[24:28] = (60_000).to_bytes(2, "little"), (2**32 - 1).to_bytes(4, "little")
    (folder / "absurd.wav").write_bytes(header)
    (folder / "folder.wav").mkdir()
    return {
        "empty.wav": "the file is empty (0 bytes)",
        "text.wav": "this is a text file that begins with 'not audio', not audio",
        "noise.mp3": "not audio in a known format",
        "short.wav": "too short: 399 samples at 16000 Hz, but one frame needs 400",
        "none.wav": "the file has no samples",
        "nan.wav": "1 of 40000 samples are NaN or infinite",
        "cut.wav": "cut off: its header claims 96000 bytes of samples, but the file has",
        "cut.flac": "cut off: its header says 30.0 s, but it ends after",
        "no channels.wav": "its header says that it has 0 channels",
        "absurd.wav": "cannot be decoded as wav",
        "folder.wav": "no audio files in this folder",
        "gone.wav": "no such file or folder",
    }


def test_each_bad_file_has_its_error_and_the_others_are_transcribed(transcriber, alone, tmp_path):
    bad = _bad_files(tmp_path)
    good = list(alone)
    mixed = [path for pair in zip(good, (str(tmp_path / name) for name in bad)) for path in pair] + good[len(bad) :]
    results = {result.utterance.audio: result for result in transcriber.transcribe_many(mixed)}
    assert len(results) == len(mixed)
    for name, reason in bad.items():
        path = str(tmp_path / name)
        error = results[path].error
        assert error.startswith(f"{path}: ") and reason in error and results[path].transcripts == (), error
        assert "\n" not in error
    assert {path: results[path].transcripts[0].text for path in good} == alone


def test_an_unreadable_file_is_an_error(transcriber, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "secret.wav", np.zeros(16000), 16000)

    real = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith("secret.wav"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)  # root may read everything
    (result,) = transcriber.transcribe_many([tmp_path / "secret.wav"])
    assert result.error == f"{tmp_path}/secret.wav: cannot be read: Permission denied"


def test_an_error_late_in_a_long_file_fails_the_whole_file(transcriber, alone, tmp_path):
    samples = 0.1 * np.random.default_rng(0).standard_normal(16000 * 60)
    samples[-100] = np.inf
    soundfile.write(tmp_path / "late.wav", samples, 16000, subtype="FLOAT")
    good = next(iter(alone))
    results = list(
        transcriber.transcribe_many([tmp_path / "late.wav", good], chunk_seconds=5, overlap_seconds=1, batch_seconds=5)
    )
    assert {result.utterance.audio: result.error is None for result in results} == {
        str(tmp_path / "late.wav"): False,
        good: True,
    }


def test_out_of_memory_halves_the_batch_and_continues(transcriber, alone, monkeypatch, caplog):
    real, sizes = Lane.launch, []

    def launch(self, waveforms, alone=False):
        sizes.append(sum(map(len, waveforms)) / 16000)
        if sizes[-1] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB\nmore lines")
        return real(self, waveforms, alone)

    monkeypatch.setattr(Lane, "launch", launch)
    run = transcriber.run(Inputs([demo.RECORDINGS]), Options(batch_seconds=60))
    assert _texts(run.results()) == alone
    assert run.batch_seconds <= 30 and any(size > 20 for size in sizes) and "out of memory" in caplog.text


def test_an_utterance_too_large_by_itself_fails_alone(transcriber, alone, monkeypatch):
    real = Lane.launch

    def launch(self, waveforms, alone=False):
        if max(map(len, waveforms)) > 10 * 16000:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried")
        return real(self, waveforms, alone)

    monkeypatch.setattr(Lane, "launch", launch)
    results = {result.utterance.audio: result for result in transcriber.transcribe_many([demo.RECORDINGS])}
    long = str(demo.RECORDINGS / "long.flac")
    assert results[long].error.startswith(f"{long}: too long for the memory of the device: [enforce fail")
    assert {path: results[path].transcripts[0].text for path in alone if path != long} == {
        path: text for path, text in alone.items() if path != long
    }


def test_out_of_memory_is_distinguished_from_other_errors():
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_device_that_fails_ends_the_run_with_its_error(transcriber, monkeypatch):
    def launch(self, waveforms, alone=False):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(Lane, "launch", launch)
    with pytest.raises(RuntimeError, match="device-side assert"):
        list(transcriber.transcribe_many([demo.RECORDINGS]))


def test_inputs_that_fail_end_the_run_with_their_error(transcriber, alone):
    def utterances():
        yield from (Utterance(path, path) for path in alone)
        raise OSError("the list is gone")

    with pytest.raises(OSError, match="the list is gone"):
        list(transcriber.transcribe_many(utterances()))


def test_an_error_of_a_library_is_an_error_of_the_file(transcriber, alone, monkeypatch):
    real, (first, second, *_) = audio.read_blocks, alone

    def broken(path, *arguments, **options):
        if path == first:
            raise KeyError("libsomething")
        return real(path, *arguments, **options)

    monkeypatch.setattr(audio, "read_blocks", broken)
    results = {result.utterance.audio: result for result in transcriber.transcribe_many([first, second])}
    assert "KeyError" in results[first].error and results[second].transcripts[0].text == alone[second]


def test_closing_the_results_early_ends_the_threads(transcriber):
    before = threading.active_count()
    results = transcriber.transcribe_many([demo.RECORDINGS] * 50, batch_seconds=4)
    assert next(results).error is None
    results.close()
    wait_until(lambda: threading.active_count() == before)


def test_a_stopped_run_returns_its_running_batches_and_ends(transcriber, alone):
    run = transcriber.run(Inputs([demo.RECORDINGS] * 100), Options(batch_seconds=4))
    results = []
    for result in run.results():
        results.append(result)
        run.stop()
    assert 1 <= len(results) < 1400 and all(_texts([result]).items() <= alone.items() for result in results)


def test_the_number_of_torch_threads_is_restored(transcriber):
    threads = torch.get_num_threads()
    list(transcriber.transcribe_many([demo.RECORDINGS]))
    assert torch.get_num_threads() == threads


def _blocked(queue: WeightedQueue) -> int:
    """Return how many threads wait for room in a queue, or for items."""
    return len(queue._changed._waiters)


class _StuckLane:
    """Take batches only once `go` is set."""

    depth = 0

    def __init__(self):
        self.is_launching, self.go = threading.Event(), threading.Event()

    def launch(self, waveforms, alone=False):
        self.is_launching.set()
        self.go.wait()

        class Landed:
            def land(self):
                return [(np.zeros(1, np.int32), np.zeros(1, np.float32)) for _ in waveforms]

        return Landed()


def test_decoding_runs_ahead_only_until_the_queues_are_full():
    lane, opened = _StuckLane(), []

    def decode(utterance, note):
        opened.append(utterance)
        return [np.zeros((1, 16000), np.int16)]

    cutter = Cutter.of_seconds(40, 4, 16000, 320, 400)
    pipeline = Pipeline([lane], decode, cutter, workers=2, batch_samples=5 * 16000, window=100_000)
    inputs = (Utterance(str(index), str(index)) for index in range(5000))
    results = pipeline.run(inputs)
    first = threading.Thread(target=lambda: next(results))
    first.start()
    # first the lane blocks, then the workers, whose pieces it does not take, then the feeder
    assert lane.is_launching.wait(60)
    wait_until(lambda: _blocked(pipeline._pieces) == 2)
    wait_until(lambda: _blocked(pipeline._waiting) == 1)
    # a running batch, two waiting batches, and two utterances held by workers
    assert 1 + 2 * 5 + 2 <= len(opened) <= 5 + 2 * 5 + 2 and next(inputs).id == str(len(opened) + 2 * 2 + 1)
    lane.go.set()
    first.join()
    results.close()


def test_three_hours_need_the_memory_of_a_few_pieces():
    class Lane:
        depth = 0

        def launch(self, waveforms, alone=False):
            self.counts = [(len(waveform) - 400) // 320 + 1 for waveform in waveforms]
            return self

        def land(self):
            return [(np.zeros(count, np.int32), np.zeros(count, np.float32)) for count in self.counts]

    def decode(utterance, note):
        return (np.zeros((1, 1 << 19), np.int16) for _ in range(3 * 3600 * 16000 // (1 << 19)))

    cutter = Cutter.of_seconds(40, 4, 16000, 320, 400)
    pipeline = Pipeline([Lane()], decode, cutter, workers=2, batch_samples=64 * 16000, window=10)
    tracemalloc.start()
    try:
        ((ticket,),) = pipeline.run([Utterance("long", "long")])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    ids, _ = stitch([Frames(start, *arrays) for start, arrays in sorted(ticket.channels[0], key=lambda piece: piece[0])], 0)
    assert len(ids) == (ticket.samples - 400) // 320 + 1 > 535_000
    # the samples are 345 MB; ids and log-probabilities, which are kept, 4.3 MB
    assert peak_bytes < 25e6, f"{peak_bytes / 1e6:.1f} MB"


def test_outputs_that_are_not_finite_are_an_error_not_silence(transcriber, monkeypatch):
    real = Lane.launch

    def launch(self, waveforms, alone=False):
        flight = real(self, waveforms, alone)
        ids, log_probs = flight.tensors
        log_probs = log_probs.clone()
        log_probs[3] = np.nan
        flight.tensors = ids, log_probs
        return flight

    monkeypatch.setattr(Lane, "launch", launch)
    (result,) = transcriber.transcribe_many([demo.recordings()[0].path])
    assert "the model's outputs are not finite" in result.error and result.transcripts == ()
    with pytest.raises(RuntimeError, match="the model's outputs are not finite"):
        transcriber.transcribe(audio.load(demo.recordings()[0].path))


def test_a_batch_that_ran_out_of_memory_is_retried(transcriber, alone, monkeypatch):
    monkeypatch.setattr("hubert_fast.jobs.lanes.RETRY_SECONDS", 0.0)
    real, path = Lane.launch, next(iter(alone))
    failures = iter([True, True, False])

    def launch(self, waveforms, alone=False):
        if next(failures, False):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, waveforms, alone)

    monkeypatch.setattr(Lane, "launch", launch)
    run = transcriber.run(Inputs([path]), Options(batch_seconds=60))
    assert _texts(run.results()) == {path: alone[path]}
    assert run.batch_seconds >= soundfile.info(path).duration - 0.01, "a batch of one piece was halved"


def test_at_most_a_window_of_utterances_is_in_progress():
    lane, fed = _StuckLane(), []
    lane.go.set()

    def utterances():
        for index in range(1000):
            fed.append(index)
            yield Utterance(str(index), str(index))

    cutter = Cutter.of_seconds(40, 4, 16000, 320, 400)
    decode = lambda utterance, note: [np.zeros((1, 16000), np.int16)]  # noqa: E731
    pipeline = Pipeline([lane], decode, cutter, workers=2, batch_samples=16000, window=20)
    done = 0
    for tickets in pipeline.run(utterances()):
        wait_until(lambda: len(fed) >= min(done + 21, 1000))  # noqa: B023
        assert len(fed) <= done + 21, "no more than the window is in progress"
        done += len(tickets)
        for ticket in tickets:
            pipeline.release(ticket)
    assert done == 1000


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
def test_what_is_held_for_a_slow_consumer_is_bounded_in_bytes(monkeypatch, ordered):
    """Frames of layers are large: a number of utterances does not bound their memory."""
    monkeypatch.setattr(pipeline_module, "MOST_HELD_BYTES", 10_000)
    fed, full, real = [], threading.Event(), Pipeline._has_memory

    def has_memory(self, timeout_seconds):
        if has := real(self, timeout_seconds):
            return has
        full.set()
        return has

    monkeypatch.setattr(Pipeline, "_has_memory", has_memory)

    def utterances():
        for index in range(300):
            fed.append(index)
            yield Utterance(str(index), str(index))

    class Lane:
        depth = 0

        def launch(self, waveforms, alone=False):
            return SimpleNamespace(land=lambda: [(np.zeros(1000, np.uint8),) for _ in waveforms])

    def decode(utterance, note):
        if utterance.id == "0":  # an ordered consumer waits for it, while the others are held
            assert full.wait(20), "the feed goes on, whatever is held"
        return [np.zeros((1, 16000), np.int16)]

    cutter = Cutter.of_seconds(40, 4, 16000, 320, 400)
    pipeline = Pipeline([Lane()], decode, cutter, workers=2, batch_samples=16000, window=1000)
    run = Run.__new__(Run)
    run._pipeline, run._utterances, run._ordered = pipeline, utterances(), ordered
    run._runner = SimpleNamespace(results_of=lambda tickets: [ticket.number for ticket in tickets])
    results, numbers = run.results(), []
    for number in results:
        numbers.append(number)
        if len(numbers) in (1, 50):  # the consumer is slow: everything that may be fed is fed meanwhile
            full.clear()
            assert full.wait(20), "the feed goes on, whatever is held"
        # 10 held, one passed on, two being decoded, four waiting for that and two to be run, one running, one about to be fed
        assert len(fed) <= len(numbers) + 25, "the consumer is slow, so no more begins"
    assert sorted(numbers) == list(range(300)) and (numbers == sorted(numbers) or not ordered)


def test_a_batch_that_is_not_full_does_not_wait_for_a_slow_file(monkeypatch):
    monkeypatch.setattr(pipeline_module, "LINGER_SECONDS", 0.1)
    lane, slow = _StuckLane(), threading.Event()
    lane.go.set()

    def decode(utterance, note):
        if utterance.id == "slow":
            slow.wait(20)
        return [np.zeros((1, 16000), np.int16)]

    cutter = Cutter.of_seconds(40, 4, 16000, 320, 400)
    pipeline = Pipeline([lane], decode, cutter, workers=2, batch_samples=10**9, window=100)
    done = []
    for tickets in pipeline.run([Utterance("slow", "slow"), Utterance("a", "a"), Utterance("b", "b")]):
        done += [ticket.utterance.id for ticket in tickets]
        if {"a", "b"} <= set(done):
            slow.set()
    assert sorted(done) == ["a", "b", "slow"] and done[-1] == "slow"


def test_large_cpu_batches_are_padded_to_a_multiple_of_cpu_frames(transcriber, monkeypatch):
    """oneDNN keeps memory for every distinct number of rows. The added frames do not change the results."""
    frame_counts = []
    real = type(transcriber.model).argmax_packed

    def argmax_packed(self, packed):
        out = real(self, packed)
        frame_counts.append(len(out.ids))
        return out

    monkeypatch.setattr(type(transcriber.model), "argmax_packed", argmax_packed)
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal(length).astype(np.float32) for length in rng.integers(400, 60_000, 40)]
    landed = transcriber.lanes[0].launch(waveforms).land()
    assert frame_counts[0] > 1024 and frame_counts[0] % CPU_FRAMES == 0
    assert [len(ids) for ids, _ in landed] == [(len(waveform) - 400) // 320 + 1 for waveform in waveforms]
    for waveform, (ids, log_probs) in list(zip(waveforms, landed))[:5]:
        ((single_ids, single_log_probs),) = transcriber.lanes[0].launch([waveform]).land()
        assert (single_ids == ids).mean() > 0.99 and np.abs(single_log_probs - log_probs).max() < 1e-3


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(channels="left"), "channels must be one of mix, each, but is 'left'"),
        (dict(batch_seconds=0), "batch seconds must be above 0"),
        (dict(batch_seconds=float("inf")), "batch seconds must be above 0"),
        (dict(workers=0), "workers must be an integer of at least 1, but is 0"),
        (dict(chunk_seconds=3, overlap_seconds=2), "overlap seconds at most half the chunk seconds"),
    ],
)
def test_invalid_options_raise(transcriber, options, message):
    with pytest.raises(ValueError, match=message):
        transcriber.transcribe_many([demo.RECORDINGS], **options)


@pytest.mark.parametrize("device", ["cpu,1", "cuda:0,0", "cuda:0,x", "cuda,1"])
def test_invalid_devices_raise(device):
    with pytest.raises(ValueError, match=r"device|GPUs"):
        Transcriber.from_pretrained(demo.MODEL, device=device)


def test_transcribe_file_and_transcribe_raise_for_unusable_audio(transcriber, tmp_path):
    with pytest.raises(AudioError, match="no such file"):
        transcriber.transcribe_file(tmp_path / "gone.wav")
    with pytest.raises(ValueError, match="too short: 399 samples"):
        transcriber.transcribe(np.zeros(399, np.float32))
    with pytest.raises(ValueError, match="NaN"):
        transcriber.transcribe(np.full(1000, np.nan, np.float32))
    with pytest.raises(ValueError, match="1-D"):
        transcriber.transcribe(np.zeros((2, 1000), np.float32))


@pytest.mark.parametrize("threads, lanes", [(1, 1), (2, 2), (7, 7), (8, 8), (9, 3), (11, 5), (12, 6), (16, 8), (64, 8)])
def test_the_number_of_cpu_lanes_follows_from_the_threads(threads, lanes):
    assert cpu_lanes(threads) == lanes


def test_a_queue_limits_and_returns_items_by_weight():
    queue = WeightedQueue(10, takers=2)
    assert all(queue.put(item, item) for item in (4, 5))
    assert queue.take(3) == [4] and queue.take(100) == [5], "at least one, at most as many as there are"
    assert queue.put(50, 50), "heavier than the capacity, but alone"
    blocked = threading.Thread(target=lambda: queue.put(1, 1))
    blocked.start()
    wait_until(lambda: _blocked(queue) == 1)
    assert queue.take(1) == [50]
    blocked.join()
    assert queue.take(8, wait=False) == [] and queue.take(1, wait=False) == [1]
    for item in range(4):
        queue.put(item, 1)
    queue.close()
    assert not queue.put(9) and queue.take(100) == [0, 1], "after closing, each taker gets its share"
    assert [queue.take(100) for _ in range(2)] == [[2, 3], None] and queue.is_drained


def test_texts_are_the_same_if_lanes_launch_a_batch_ahead(transcriber, alone, monkeypatch):
    """On CUDA, a batch is launched before the previous one has landed."""
    for lane in transcriber.lanes:
        monkeypatch.setattr(lane, "depth", 1)
    assert _texts(transcriber.transcribe_many([demo.RECORDINGS], batch_seconds=6)) == alone


def test_on_cuda_a_batch_is_copied_once_from_pinned_memory(transcriber, monkeypatch):
    """Run a lane as on CUDA, with stand-ins for streams and events that log all operations in order."""
    log, blocks, streams = [], [], ["work"]

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            log.append(f"{self.name} waits for {other.name}")

    class Event:
        def record(self, stream):
            log.append(f"event on {stream.name}")

        def synchronize(self):
            log.append("event waited for")

    @contextmanager
    def on(stream):
        streams.append(stream.name)
        yield
        streams.pop()

    empty, to, model = torch.empty, PackedAudio.to, transcriber.model

    def recorded_empty(*size, pin_memory=False, **options):
        blocks.extend([empty(*size, **options)] if pin_memory else [])
        return blocks[-1] if pin_memory else empty(*size, **options)

    def logged_to(self, device, *, non_blocking=False):
        log.append(f"{'started' if non_blocking else 'whole'} copy on {streams[-1]}")
        return to(self, device)

    def argmax_packed(audio):
        log.append(f"model on {streams[-1]}")
        assert audio.samples.data_ptr() == blocks[0].data_ptr(), "the model reads the memory that the waveforms were written to"
        return type(model).argmax_packed(model, audio)

    waveforms = [np.random.randn(length).astype(np.float32) for length in (8000, 400, 5001)]
    lane = Lane(model, Transcriber.compute, True)
    expected = lane.launch(waveforms).land()
    lane._copies = Stream("copies")
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("work"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: log.append(f"samples used on {stream.name}"))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pytest.fail("a second copy of the batch"))
    monkeypatch.setattr(torch, "empty", recorded_empty)
    monkeypatch.setattr(PackedAudio, "to", logged_to)
    monkeypatch.setattr(model, "argmax_packed", argmax_packed)
    flight = lane.launch(waveforms)
    assert log == [
        "started copy on copies", "work waits for copies", "samples used on work", "model on work", "started copy on work",
        "event on work",
    ]  # fmt: skip
    assert [block.dtype for block in blocks] == [torch.float32, torch.int32, torch.float32], "samples, ids, probabilities"
    for actual, reference in zip(flight.land(), expected, strict=True):
        assert np.array_equal(actual[0], reference[0]) and np.allclose(actual[1], reference[1], atol=1e-5)
    assert log[-1] == "event waited for"

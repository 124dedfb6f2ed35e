"""Test `hubert-fast bench`: what it runs and counts, and that it times no wrong answers."""

import csv
import json
import math
import platform

import numpy as np
import pytest
import torch

from hubert_fast import audio, cli, console, demo
from hubert_fast.benchmark import arithmetic, measure, meters, rows
from hubert_fast.benchmark.command import table
from hubert_fast.benchmark.protocols import PROTOCOLS, prepare
from hubert_fast.benchmark.providers import Ours, Unavailable, checked_names, provider
from hubert_fast.benchmark.subject import Subject
from hubert_fast.benchmark.work import Work, batches
from hubert_fast.tolerances import OP_TOLERANCES, largest_error

pytest.importorskip("transformers")
CPU = torch.device("cpu")
FEW = ["--audio-seconds", "1", "--batch-seconds", "0.5", "--rounds", "2", "--lengths", "fixed:0.4", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _small_ceiling(monkeypatch):
    """Use small matrix products to measure the machine's ceiling: the real ones take seconds."""
    monkeypatch.setattr(arithmetic, "CPU_PRODUCTS", ((64, 64, 64),))


def bench(tmp_path, *arguments):
    """Run the command; return its exit status and its rows."""
    path = tmp_path / "rows.csv"
    status = cli.main(["bench", *arguments, "--csv", str(path)])
    return status, rows.read(path)


@pytest.mark.bench
@pytest.mark.parametrize("config", ["tiny", "tiny-large"])
def test_every_protocol_has_a_row_for_every_provider(tmp_path, capsys, config):
    names = "ours,ours-padded,accelerate,hf-sdpa,hf-sdpa-sorted,hf-eager"
    options = ["--config", config, "--dtype", "float32", "--protocol", ",".join(PROTOCOLS), "--providers", names, *FEW]
    status, results = bench(tmp_path, *options, "--dollars-per-hour", "2", "--plot", str(tmp_path / "plot.svg"))
    assert [(row["protocol"], row["provider"]) for row in results] == [(p, n) for p in PROTOCOLS for n in names.split(",")]
    out = capsys.readouterr().out
    for row in results:
        if (row["protocol"], row["provider"]) == ("files", "ours-padded"):
            assert row["status"].startswith("cannot run: transformers' pipeline") and not row["rtfx"]
            assert row["status"] in out
            continue
        assert row["status"] == "ok" and row["rounds"] == "2" and float(row["max_error"]) < 1e-4
        assert float(row["p20_s"]) <= float(row["p50_s"]) <= float(row["p80_s"])
        assert float(row["rtfx"]) == pytest.approx(float(row["audio_seconds"]) / float(row["p50_s"]), rel=2e-3)
        assert float(row["audio_hours_per_dollar"]) == pytest.approx(float(row["rtfx"]) / 2, rel=2e-3)
        assert float(row["latency_p50_ms"] or 1) <= float(row["latency_p95_ms"] or 1)
        assert bool(row["latency_p50_ms"]) == (row["protocol"] != "files")
        assert float(row["share_of_ceiling"]) > 0 and row["threads"] == str(torch.get_num_threads())
        assert row["texts_equal"] == "" and row["wer"] == ""  # the weights are random
    assert status == console.EXIT_SOME_FAILED
    assert (tmp_path / "plot.svg").read_text().count("ours-padded") >= 2


@pytest.mark.parametrize(
    "protocol, batch_seconds, batch_utterances, is_one",
    [
        ("model", 0.8, 1, True),
        ("model", 0.7, 2, False),
        ("leaderboard", 0.1, 2, True),
        ("leaderboard", 0.8, 1, False),
        ("files", 0.1, 1, True),
    ],
)
def test_plan_detects_work_in_one_batch(protocol, batch_seconds, batch_utterances, is_one):
    plan = measure.Plan(protocol, batch_seconds, batch_utterances, rounds=1, ceiling=1.0)
    assert plan.is_one_batch(Work.of("fixed:0.4", 0.8)) == is_one


@pytest.mark.parametrize(
    "providers, is_reported", [("hf-sdpa,hf-sdpa-sorted", True), ("hf-sdpa", False)], ids=["sorted", "as is"]
)
def test_sorting_a_single_batch_is_reported_as_useless(capsys, providers, is_reported):
    few = ["--config", "tiny", "--dtype", "float32", "--device", "cpu", "--lengths", "fixed:0.4", "--audio-seconds", "0.8"]
    assert cli.main(["bench", *few, "--rounds", "1", "--providers", providers]) == console.EXIT_OK
    assert ("all utterances fit in one batch, so sorting has no effect" in capsys.readouterr().err) == is_reported


@pytest.mark.bench
def test_the_demo_model_has_equal_texts_and_a_low_word_error_rate(tmp_path):
    """Each utterance is decoded alone, without padding. The word error rate is that of all recordings."""
    options = [
        "--model",
        str(demo.MODEL),
        "--dtype",
        "float32",
        "--protocol",
        "leaderboard",
        "--lengths",
        "demo",
        "--rounds",
        "1",
    ]
    status, results = bench(tmp_path, *options, "--batch-utterances", "1", "--providers", "ours,hf-sdpa")
    assert status == console.EXIT_OK
    ours, theirs = results
    assert ours["texts_equal"] == "4 of 4" and 0 < float(ours["wer"]) < 0.06
    assert ours["model"] == "demo" and ours["utterances"] == "14"
    # the leaderboard decodes with skip_special_tokens=True, with which transformers loses doubled letters
    assert float(theirs["wer"]) > float(ours["wer"]) and float(theirs["max_error"]) < 1e-5


def test_wrong_answers_are_not_timed(tmp_path, monkeypatch):
    right = Ours.forward

    def wrong(self, waveforms):
        ready = right(self, waveforms)
        return ready._replace(run=lambda: 1.001 * ready.run())

    monkeypatch.setattr(Ours, "forward", wrong)
    status, results = bench(tmp_path, "--config", "tiny", "--dtype", "float32", "--providers", "ours,hf-sdpa", *FEW)
    assert status == console.EXIT_SOME_FAILED
    assert results[0]["status"].startswith("not timed: differs from float32 by 1.0e-03") and not results[0]["rtfx"]
    assert results[1]["status"] == "ok"


@pytest.mark.parametrize(
    "error, reason, good_calls",
    [
        (RuntimeError("[enforce fail] can't allocate memory: you tried"), "failed: out of memory", 2),
        (Unavailable("no such chip"), "cannot run: no such chip", 2),
        (KeyError("weight"), "failed: KeyError: 'weight'", 0),
        (KeyError("weight"), "failed: KeyError: 'weight'", 1),
        (KeyError("weight"), "failed: KeyError: 'weight'", 2),
    ],
)
def test_a_failing_provider_gets_a_row_and_stops_no_other(tmp_path, monkeypatch, error, reason, good_calls):
    calls = []

    def failing(self, waveforms):
        calls.append(len(waveforms))
        if len(calls) > good_calls:
            raise error
        return ["" for _ in waveforms]

    monkeypatch.setattr(Ours, "text", failing)
    options = ["--config", "tiny", "--dtype", "float32", "--protocol", "leaderboard", "--providers", "ours,hf-sdpa", *FEW]
    _, results = bench(tmp_path, *options)
    assert [row["status"] for row in results] == [reason, "ok"]


def test_a_file_with_other_columns_is_refused(tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    status, _ = bench(tmp_path, "--config", "tiny", "--dtype", "float32", "--providers", "ours", *FEW)
    assert status == console.EXIT_CANNOT_RUN and "other columns" in capsys.readouterr().err
    assert (tmp_path / "rows.csv").read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--providers", "ours,theirs"], "'theirs' is unknown"),
        (["--providers", "ours,ours"], "each once"),
        (["--protocol", "model,all"], "model, leaderboard, files, with commas between, but are 'model,all'"),
        (["--lengths", "fixed:x"], "expected fixed:SECONDS, at least 0.025 (one frame), but got 'x'"),
        (["--lengths", "nowhere.jsonl"], "a file that exists, but are 'nowhere.jsonl'"),
        (["--rounds", "0"], "--rounds must be above 0, but is 0"),
        (["--batch-seconds", "nan"], "--batch-seconds must be above 0, but is nan"),
        (["--csv", "no/folder/rows.csv"], "there is no folder no/folder"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--model", "no_such_folder_or_name"], "no_such_folder_or_name"),
    ],
)
def test_bad_options_are_refused(capsys, options, message):
    arguments = ["bench", "--dtype", "float32", *options] + ([] if "--model" in options else ["--config", "tiny"])
    assert cli.main(arguments) == console.EXIT_CANNOT_RUN
    assert message in capsys.readouterr().err


def test_random_and_fixed_lengths():
    work = Work.of("librispeech", 100)
    seconds = [len(waveform) / 16000 for waveform in work.waveforms]
    assert 99.99 < sum(seconds) < 100 + 35 and all(1.3 <= duration <= 35 for duration in seconds)
    again = Work.of("librispeech", 100)
    assert all(np.array_equal(first, second) for first, second in zip(work.waveforms, again.waveforms))
    assert [len(waveform) for waveform in Work.of("fixed:0.5", 2).waveforms] == [8000] * 4
    many = [len(waveform) / 16000 for waveform in Work.of("librispeech", 20000).waveforms]
    assert np.median(many) == pytest.approx(5.9, rel=0.05)


def test_lengths_from_files(tmp_path):
    (tmp_path / "seconds.txt").write_text("0.5\n\n1.25\n")
    assert [len(waveform) for waveform in Work.of(str(tmp_path / "seconds.txt"), 1).waveforms] == [8000, 20000]
    recordings = demo.recordings()[:3]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(
        "".join(
            json.dumps({"audio_filepath": str(recording.path), "text": recording.reference}) + "\n" for recording in recordings
        )
    )
    work = Work.of(str(manifest), 1000)
    assert work.references == tuple(recording.reference for recording in recordings) and work.paths == tuple(
        str(recording.path) for recording in recordings
    )
    assert all(np.array_equal(waveform, audio.load(recording.path)) for waveform, recording in zip(work.waveforms, recordings))
    assert len(Work.of(str(manifest), 0.1).waveforms) == 1  # stops at the requested seconds
    for text in ('{"audio_filepath": "missing.wav"}', '{"audio_filepath": "a.wav", "offset": 1.0, "duration": 2.0}'):
        manifest.write_text(text + "\n")
        with pytest.raises(ValueError, match=r"missing\.wav|parts of files"):
            Work.of(str(manifest), 1000)
    (tmp_path / "seconds.txt").write_text("0.5\nten\n")
    with pytest.raises(ValueError, match="seconds on each line"):
        Work.of(str(tmp_path / "seconds.txt"), 1)


def test_saved_files_hold_the_waveforms(tmp_path):
    work = Work.of("fixed:0.3", 0.9).saved(tmp_path)
    assert len(work.paths) == 3
    assert all(np.array_equal(audio.load(path), waveform) for path, waveform in zip(work.paths, work.waveforms))


def test_batches():
    assert batches([5, 5, 5, 20, 1], samples=10) == [[0, 1], [2], [3], [4]]
    assert batches([5, 5, 5], utterances=2) == [[0, 1], [2]]
    assert batches([], samples=10) == [] and batches([3, 4]) == [[0, 1]]


def test_sorted_providers_batch_by_length_and_keep_texts_in_place():
    subject = Subject.random("tiny", CPU, torch.float32)
    instance = provider("hf-sdpa-sorted", subject)
    instance.text = lambda waveforms: [str(len(waveform)) for waveform in waveforms]
    sizes = [900, 500, 700, 600]
    work = Work("", tuple(np.zeros(size, np.float32) for size in sizes))
    assert prepare("leaderboard", instance, work, 1.0, 2)().texts == [str(size) for size in sizes]
    seen = []
    instance.text = lambda waveforms: seen.append([len(waveform) for waveform in waveforms]) or [""] * len(waveforms)
    prepare("leaderboard", instance, work, 1.0, 2)()
    assert seen == [[500, 600], [700, 900]]
    instance.is_sorted, instance.is_single = False, True
    prepare("leaderboard", instance, work, 1.0, 2)()
    assert seen[2:] == [[900], [500], [700], [600]]
    single, ordered = provider("hf-sdpa-single", subject), provider("hf-sdpa-sorted", subject)
    assert single.is_single and not single.is_sorted and ordered.is_sorted and not ordered.is_single
    assert not provider("hf-sdpa", subject).is_sorted
    assert checked_names(" ours, hf-eager-sorted ") == ["ours", "hf-eager-sorted"]


@pytest.mark.parametrize("name", ["tiny", "tiny-large"])
def test_operations_are_counted_as_pytorch_counts_them(name):
    """PyTorch counts our definition, which returns attentions so that it computes attention by counted products."""
    from torch.utils.flop_counter import FlopCounterMode

    subject = Subject.random(name, CPU, torch.float32)
    length = 16000
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        subject.ours(torch.randn(1, length), output_attentions=True)
    # an even kernel gives an extra frame, which the model drops but PyTorch counts
    config = subject.config
    frames = (length - 400) // 320 + 1
    extra = 2 * config.hidden_size**2 // config.num_conv_pos_embedding_groups * config.num_conv_pos_embeddings
    assert counter.get_total_flops() == pytest.approx(arithmetic.flop(config, [length]) + extra, rel=1e-6), frames
    assert arithmetic.flop(config, [length, length]) == 2 * arithmetic.flop(config, [length])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_products_are_those_of_the_matrices(dtype):
    x, weight = torch.randn(96, 64).to(dtype), torch.randn(80, 64).to(dtype)
    for number, product in enumerate(arithmetic.products(x, weight)):
        assert largest_error(product(), x.double() @ weight.double().T) <= OP_TOLERANCES[dtype].value, f"product {number}"


def test_the_ceiling_is_that_of_the_fastest_product(monkeypatch):
    now = [0.0]

    def taking(seconds):
        return lambda: now.__setitem__(0, now[0] + seconds)

    monkeypatch.setattr(arithmetic.time, "perf_counter", lambda: now[0])
    for times in ((2.0, 4.0), (4.0, 2.0), (2.0,)):
        monkeypatch.setattr(arithmetic, "products", lambda x, weight, times=times: [taking(seconds) for seconds in times])
        assert arithmetic.ceiling(torch.float32, CPU) == 2 * 64**3 / 2.0


def test_builds_without_onednn_measure_only_the_product_of_pytorch(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert len(arithmetic.products(torch.ones(2, 3), torch.ones(4, 3))) == 1


@pytest.mark.parametrize(
    "name, fields, expected",
    [
        ("AMD EPYC", "cpu family\t: 26\nmodel\t\t: 2\n", "AMD EPYC (family 26, model 2)"),
        ("AMD EPYC 9B14", "cpu family\t: 25\nmodel\t\t: 17\n", "AMD EPYC 9B14"),
        ("AMD EPYC", "", "AMD EPYC"),
    ],
)
def test_processors_without_a_number_get_their_family_and_model(monkeypatch, tmp_path, name, fields, expected):
    core = f"processor\t: 0\n{fields}model name\t: {name}\n\n"
    (tmp_path / "cpuinfo").write_text(core + core.replace(": 2", ": 3"))
    monkeypatch.setattr(rows, "CPU_INFO", tmp_path / "cpuinfo")
    assert rows.processor() == expected
    monkeypatch.setattr(rows, "CPU_INFO", tmp_path / "missing")
    assert rows.processor() == platform.machine()


def test_meters():
    memory = meters.Memory(CPU)
    memory.start()
    block = torch.ones(30_000_000)
    peak = memory.peak_bytes()
    assert peak is None or 0.9 * block.nbytes < peak < 2 * block.nbytes
    energy = meters.Energy(CPU)
    assert energy.joules() is None and "GPU" in energy.missing


def test_table_of_rows():
    row = dict.fromkeys(measure.COLUMNS.split(), "") | {
        "protocol": "model",
        "status": "ok",
        "max_error": 1e-5,
        "peak_bytes": 2_000_000,
    }
    row |= {"latency_p50_ms": 1.0, "latency_p95_ms": 2.0, "share_of_ceiling": 0.5}
    timed = [
        row | {"provider": "ours", "rtfx": 300.0},
        row | {"provider": "hf-sdpa", "rtfx": 100.0},
        row | {"provider": "hf-eager", "rtfx": 150.0},
        row | {"provider": "accelerate", "rtfx": 250.0},
    ]
    lines = table([*timed, row | {"provider": "hf-flash", "status": "cannot run: no GPU"}]).splitlines()
    assert lines[1].split()[:4] == ["model", "ours", "300", "2.00"] and lines[-1] == "model, hf-flash: cannot run: no GPU"
    assert "WER" not in lines[0] and "h/$" not in lines[0]
    lines = table([*timed, row | {"provider": "openvino-single", "rtfx": 200.0}]).splitlines()  # the ratio is to any peer
    assert [line.split()[3] for line in lines[1:]] == ["1.50", "0.50", "0.75", "1.25", "1.00"]
    assert table([row | {"provider": "ours", "status": "failed: x"}]).splitlines()[1:] == ["model, ours: failed: x"]


def test_flash_attention_says_why_it_cannot_run():
    for _ in range(2):  # transformers 5.20 to 5.22 raises once in a process
        with pytest.raises(Unavailable, match="FlashAttention2"):
            provider("hf-flash", Subject.random("tiny", CPU, torch.bfloat16))


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_ours_pins_memory_only_for_gpus(monkeypatch, device):
    from hubert_fast import PackedAudio

    subject, log = Subject.random("tiny", CPU, torch.float32), []
    from_waveforms = PackedAudio.from_waveforms
    monkeypatch.setattr(Subject, "device", torch.device(device))
    monkeypatch.setattr(
        PackedAudio,
        "from_waveforms",
        lambda waveforms, pin_memory, **options: log.append(pin_memory) or from_waveforms(waveforms, **options),
    )
    monkeypatch.setattr(PackedAudio, "to", lambda self, to, non_blocking=False: log.append((str(to), non_blocking)) or self)
    ours = Ours(subject)
    assert len(ours.text([np.zeros(800, np.float32)] * 2)) == 2
    assert ours.forward([np.zeros(800, np.float32)] * 2).run().shape == (4, 32)
    assert log[:2] == log[3:5] == [device != "cpu", (device, True)]


def test_without_transformers(monkeypatch, tmp_path):
    """Our provider is compared with our definition; the others get rows with the reason."""
    from hubert_fast.benchmark import subject

    monkeypatch.setattr(subject, "find_spec", lambda name: None)
    status, results = bench(tmp_path, "--config", "tiny", "--dtype", "float32", "--providers", "ours,hf-sdpa", *FEW)
    assert results[0]["status"] == "ok" and float(results[0]["max_error"]) < 1e-5
    assert results[1]["status"].startswith("cannot run: transformers is not installed") and status == console.EXIT_SOME_FAILED


def test_csv_numbers_are_rounded_to_four_digits_unless_whole(tmp_path):
    path = tmp_path / "a.csv"
    rows.append(path, {"utc": "x"}, [{"value": math.pi, "count": 12345678}])
    rows.append(path, {"utc": "y"}, [{"value": "", "count": 1}])
    with open(path, newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"utc": "x", "value": "3.142", "count": "12345678"}, {"utc": "y", "value": "", "count": "1"},
        ]  # fmt: skip

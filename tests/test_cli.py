"""Test the command line as users see it: text on standard output, all else on standard error, and exit statuses."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import hubert_fast
from hubert_fast import ctc, demo
from hubert_fast.audio import load
from hubert_fast.cli import main
from hubert_fast.devices import resolve_device, resolve_dtype
from hubert_fast.jobs.lanes import Lane
from hubert_fast.transcribe import Transcriber


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Return a folder with two bundled recordings, one in a subfolder, and both recordings with the model's text."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "sub").mkdir()
    first, second = demo.recordings()[:2]
    shutil.copy(first.path, folder)
    shutil.copy(second.path, folder / "sub")
    transcriber = Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype="float32")
    transcribed = [
        recording._replace(reference=transcriber.transcribe_file(recording.path).text) for recording in (first, second)
    ]
    assert all(recording.reference for recording in transcribed)
    return folder, *transcribed


def test_one_file_gives_only_its_text(recordings, capsys):
    _, first, _ = recordings
    assert main(["transcribe", str(first.path)]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == first.reference
    assert "bundled demo model (synthetic voices, closed vocabulary" in captured.err
    chosen = str(resolve_dtype("auto", resolve_device("auto"))).removeprefix("torch.")
    assert f"running on {resolve_device('auto')}" in captured.err and f" in {chosen}\n" in captured.err


def test_a_warning_is_one_line(recordings, monkeypatch, capsys):
    monkeypatch.setattr(ctc, "why_not_built", lambda: "no compiler")
    monkeypatch.setattr(ctc, "_warned", [])
    assert main(["transcribe", str(recordings[1].path)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "C++" in line]
    assert len(lines) == 1 and lines[0].startswith("hubert-fast: hubert_fast decodes CTC in Python, many times slower")


def test_a_folder_gives_a_line_per_file(recordings, capsys):
    folder, first, second = recordings
    assert main(["transcribe", str(folder), "--device", "cpu", "--dtype", "float32"]) == 0
    lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert lines == {
        str(folder / first.path.name): first.reference,
        str(folder / "sub" / second.path.name): second.reference,
    }


def test_json_lines(recordings, tmp_path, capsys):
    folder, first, _ = recordings
    out = tmp_path / "out.jsonl"
    command = ["transcribe", str(folder), "--model", str(demo.MODEL), "-o", str(out), "--ordered", "--dtype", "float32"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "bundled demo model" not in captured.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [[*row] for row in rows] == [["id", "audio", "duration_seconds", "text", "confidence", "words"]] * 2
    assert rows[0]["audio"] == rows[0]["id"] == str(folder / first.path.name) and rows[0]["text"] == first.reference
    assert rows[0]["duration_seconds"] == pytest.approx(soundfile.info(first.path).duration, abs=1e-3)
    assert 0.5 < rows[0]["confidence"] <= 1 and [word["word"] for word in rows[0]["words"]] == first.reference.split()
    assert rows[0]["words"][0].keys() == {"word", "start_seconds", "end_seconds", "confidence"}
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()
    before = out.read_text()
    assert main(command) == 0
    assert "2 inputs were already done" in capsys.readouterr().err and out.read_text() == before
    assert main([*command, "--overwrite"]) == 0 and out.read_text() == before
    (tmp_path / "out.jsonl.journal").unlink()
    assert main(command) == 2
    assert "exists already; --overwrite replaces it" in capsys.readouterr().err and out.read_text() == before


def test_bad_files_get_a_line_each_and_the_others_are_transcribed(recordings, tmp_path, capsys):
    _, first, second = recordings
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write(tmp_path / "short.wav", np.zeros(399), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(1000, np.nan), 16000, subtype="FLOAT")
    bad = ["empty.wav", "text.wav", "short.wav", "nan.wav", "missing.wav"]
    paths = [first.path, *(tmp_path / name for name in bad), second.path]
    assert main(["transcribe", *map(str, paths)]) == 1
    captured = capsys.readouterr()
    texts = [line.split("\t")[1] for line in captured.out.splitlines()]
    assert texts == [first.reference, second.reference]
    for name, reason in zip(
        bad, ("0 bytes", "not audio", "399 samples at 16000 Hz, but one frame needs 400", "NaN", "no such file")
    ):
        lines = [line for line in captured.err.splitlines() if name in line]
        assert len(lines) == 1 and reason in lines[0], captured.err
    assert "5 of 7 inputs could not be transcribed" in captured.err


ANNOUNCEMENTS = ("bundled demo model", "running on", "looking on the Hugging Face hub")


def _incomplete_checkpoint(folder):
    model = hubert_fast.HubertForCTC.from_pretrained(demo.MODEL)
    model.hubert.save_pretrained(folder)  # without the head
    for name in ("vocab.json", "preprocessor_config.json"):
        shutil.copy(demo.MODEL / name, folder)
    return folder


@pytest.mark.parametrize(
    "options, message",
    [
        (["--model", "someone/no-such-model"], "someone/no-such-model is not a folder, its config.json"),
        (["--model", "/no/such/folder"], "/no/such/folder"),
        (
            ["--model", "INCOMPLETE"],
            "is a pre-trained encoder without a CTC head: fine-tune it, or use a fine-tuned checkpoint such as",
        ),
        (["--device", "cuda:99"], "cuda:99 was requested, but there"),
        (["--device", "toaster"], "device must be auto, cpu, cuda or cuda:N, but is 'toaster'"),
        (["--dtype", "int4"], "dtype must be auto, float32, bfloat16, float16, but is 'int4'"),
        (["--model", "x" * 300], "File name too long"),
        (["-o", "/no/such/folder/out.jsonl"], "cannot be written: there is no folder /no/such/folder"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_commands_that_cannot_run_say_so_in_one_line(recordings, tmp_path, capsys, options, message):
    options = [str(_incomplete_checkpoint(tmp_path / "model")) if option == "INCOMPLETE" else option for option in options]
    assert main(["transcribe", str(recordings[1].path), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if not any(part in line for part in ANNOUNCEMENTS)]
    assert len(lines) == 1 and message in lines[0], captured.err


def test_file_names_that_are_not_utf8(recordings, tmp_path):
    name = os.fsdecode(b"bad\xff.wav")
    os.symlink(recordings[1].path, tmp_path / name)
    os.symlink(recordings[1].path, tmp_path / "good.wav")
    out = tmp_path / "out.jsonl"
    process = _start("transcribe", tmp_path, "-o", out, "--ordered")
    assert process.wait(timeout=300) == 0, process.stderr.read()
    assert [os.path.basename(json.loads(line)["audio"]) for line in out.read_text().splitlines()] == [name, "good.wav"]
    text = subprocess.run([sys.executable, "-m", "hubert_fast", "transcribe", tmp_path], capture_output=True).stdout
    assert text.splitlines()[0].partition(b"\t")[0] == os.fsencode(tmp_path / name)


def test_a_full_disk_is_reported(recordings, capsys):
    assert main(["transcribe", str(recordings[1].path), "-o", "/dev/full"]) == 2
    assert "/dev/full cannot be written: No space left on device" in capsys.readouterr().err


def test_a_device_is_written_to_and_never_replaced(recordings):
    assert main(["transcribe", str(recordings[1].path), "-o", "/dev/null", "--overwrite"]) == 0


def test_a_run_that_fails_early_leaves_the_output_unchanged(recordings, tmp_path, capsys):
    out, bad = tmp_path / "out.jsonl", tmp_path / "bad.wav"
    assert main(["transcribe", str(recordings[1].path), "-o", str(out), "--device", "toaster"]) == 2
    assert [file.name for file in tmp_path.iterdir()] == []
    bad.write_text("not audio")
    assert main(["transcribe", str(bad), "-o", str(tmp_path / "none.jsonl")]) == 1
    assert "times real time" not in capsys.readouterr().err and (tmp_path / "none.jsonl").read_text() == ""
    out.write_text("earlier\n")
    assert main(["transcribe", str(recordings[1].path), "-o", str(out), "--overwrite", "--device", "toaster"]) == 2
    assert out.read_text() == "earlier\n"
    capsys.readouterr()
    assert main(["transcribe", str(recordings[1].path), "-o", str(out)]) == 2
    assert "running on" not in capsys.readouterr().err  # before any model is loaded
    assert main(["transcribe", str(recordings[1].path), "-o", str(out), "--overwrite"]) == 0
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == [recordings[1].reference]


def test_an_input_is_never_overwritten(recordings, tmp_path, capsys):
    path = tmp_path / "only copy.wav"
    shutil.copy(recordings[1].path, path)
    assert main(["transcribe", str(path), "-o", str(path), "--overwrite"]) == 2
    assert "is an input" in capsys.readouterr().err and path.read_bytes() == recordings[1].path.read_bytes()


def test_running_out_of_memory_on_one_file_does_not_affect_the_others(recordings, tmp_path, capsys, monkeypatch):
    folder, first, second = recordings
    real = Lane.launch

    def launch(self, waveforms, alone=False):
        if any(len(waveform) == len(load(first.path)) for waveform in waveforms):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory\nC++ frames")
        return real(self, waveforms, alone)

    monkeypatch.setattr(Lane, "launch", launch)
    assert main(["transcribe", str(folder), "--dtype", "float32"]) == 1
    captured = capsys.readouterr()
    assert captured.out == f"{folder / 'sub' / second.path.name}\t{second.reference}\n"
    assert f"{first.path.name}: too long for the memory of the device: [enforce fail" in captured.err
    assert "C++ frames" not in captured.err


def test_nothing_to_transcribe(tmp_path, capsys):
    assert main(["transcribe", str(tmp_path / "gone.wav"), str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert "gone.wav: no such file or folder" in errors and "no audio files in this folder" in errors


def test_info(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for expected in (
        hubert_fast.__version__,
        "torch ",
        "cuda ",
        "backend eager    can run",
        "backend triton",
        "C++ extension",
        "CPU kernels",
    ):
        assert expected in out, out


def test_info_shows_and_checks_the_backend_setting(capsys, monkeypatch):
    monkeypatch.setenv("HUBERT_FAST_BACKEND", "eager")
    assert main(["info"]) == 0 and "backend setting  eager" in capsys.readouterr().out
    monkeypatch.setenv("HUBERT_FAST_BACKEND", "cuda")
    assert main(["info"]) == 2 and "backend must be auto, eager or triton, but is 'cuda'" in capsys.readouterr().err


def test_a_backend_that_cannot_run_is_reported_before_any_file(capsys, monkeypatch):
    recording = str(demo.recordings()[0].path)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    for backend, reason in (
        ("triton", "backend triton was requested, but cannot run: "),
        ("metal", "backend must be auto, eager"),
    ):
        monkeypatch.setenv("HUBERT_FAST_BACKEND", backend)
        assert main(["transcribe", recording, "--device", "cpu"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and reason in err and "could not be transcribed" not in err


def test_version_and_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"hubert_fast {hubert_fast.__version__}\n"
    for wrong in ([], ["transcribe"], ["transcribe", "a.wav", "--sped", "1"], ["sing"]):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2


def test_version_needs_no_torch():
    code = "import sys; from hubert_fast.cli import main\ntry: main(['--version'])\nfinally: print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines() == [f"hubert_fast {hubert_fast.__version__}", "False"]


def _imported(path: Path, package: list[str]) -> set[str]:
    """Return the names in `hubert_fast` that a module imports, anywhere in its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            home = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            names |= {home, *(f"{home}.{alias.name}".lstrip(".") for alias in node.names)}
    return names


def test_command_line_modules_are_in_no_import_cycle():
    root = Path(hubert_fast.__file__).parent
    paths = {path.relative_to(root).with_suffix("").as_posix().replace("/", "."): path for path in root.rglob("*.py")}
    imports = {name: _imported(path, name.split(".")[:-1]) & paths.keys() for name, path in paths.items()}
    commands = [name for name in paths if name in ("cli", "commands", "console") or name.endswith(".command")]
    assert len(commands) == 9 and not imports["console"]
    for name in commands:
        reached, following = set(), {*imports[name]}
        while following:
            reached |= following
            following = set().union(*(imports[module] for module in following)) - reached
        assert name not in reached, f"{name} imports itself through other modules"


def test_demo(capsys):
    pytest.importorskip("jiwer", reason="jiwer counts the word errors")
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    for recording in demo.recordings():
        assert recording.path.name in out and recording.reference in out
    assert "word error rate" in out and "times real time" in out


def _start(*arguments, **options):
    command = [sys.executable, "-m", "hubert_fast", *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_errors_are_one_line_with_python_dash_m_too(recordings):
    process = _start("transcribe", recordings[1].path, "--device", "toaster")
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 2 and out == "" and "Traceback" not in errors
    assert "device must be auto, cpu, cuda or cuda:N, but is 'toaster'" in errors


def test_ctrl_c_keeps_finished_lines_and_exits_130(recordings, tmp_path):
    for index in range(2000):
        os.symlink(recordings[1].path, tmp_path / f"{index:04d}.wav")
    process = _start("transcribe", tmp_path)
    first = process.stdout.readline()
    assert first.startswith(str(tmp_path / "0000.wav"))
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "hubert-fast: interrupted" and "Traceback" not in errors
    lines = (first + rest).splitlines(keepends=True)
    assert len(lines) < 2000 and all(line.endswith(f"\t{recordings[1].reference}\n") for line in lines)


def test_a_reader_that_leaves_early_causes_no_error_message(recordings, tmp_path):
    for index in range(200):
        os.symlink(recordings[1].path, tmp_path / f"{index:04d}.wav")
    process = _start("transcribe", tmp_path)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=300) == 128 + signal.SIGPIPE
    errors = process.stderr.read()
    assert "Traceback" not in errors and "BrokenPipe" not in errors, errors


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("", torch.float32),
        ("amx_tile", torch.bfloat16),
        ("avx512_bf16", torch.bfloat16),
        ("avx512 avx2 vnni", torch.float32),  # no bfloat16 instructions: values are converted one by one
    ],
    ids=str,
)
def test_auto_dtype_on_a_cpu(monkeypatch, features, expected):
    for feature in ("amx_tile", "avx512_bf16", "avx512", "avx2", "vnni"):
        monkeypatch.setattr(
            torch.cpu, f"_is_{feature}_supported", lambda feature=feature: feature in features.split(), raising=False
        )
    assert resolve_dtype("auto", torch.device("cpu")) == expected
    assert resolve_dtype("float16", torch.device("cpu")) == torch.float16  # an explicit dtype is used


def test_auto_dtype_on_a_cpu_with_an_older_torch(monkeypatch):
    for name in [name for name in vars(torch.cpu) if name.startswith("_is_")]:
        monkeypatch.delattr(torch.cpu, name)
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("command", [["info"], ["check", "--device", "cpu"]], ids=["info", "check"])
def test_commands_that_read_no_audio_need_no_library_for_it(command):
    """A machine on which only GPUs are measured may have no libsndfile."""
    code = f"import sys; sys.modules['soundfile'] = None; from hubert_fast.cli import main; sys.exit(main({command}))"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "soundfile" not in run.stderr and "Traceback" not in run.stderr
    assert run.returncode == (0 if command == ["info"] else 2), run.stderr

"""Test the scripts of examples/ on the bundled model and recordings."""

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hubert_fast
from hubert_fast import demo
from hubert_fast.units import Centroids, Encoder

FOLDER = Path(hubert_fast.__file__).parent.parent / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))
pytestmark = pytest.mark.skipif(not SCRIPTS, reason="examples/ is not beside the package under test")


def main_of(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def files_and_texts():
    """Return the paths of two recordings, and their texts."""
    recordings = demo.recordings()[:2]
    return [str(recording.path) for recording in recordings], [recording.reference.upper() for recording in recordings]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_are_short_and_have_help(script):
    assert len(script.read_text(encoding="utf-8").splitlines()) < 60
    with pytest.raises(SystemExit) as stopped:
        main_of(script.stem)(["--help"])
    assert stopped.value.code == 0


def test_dropin(files_and_texts, capsys):
    files, texts = files_and_texts
    main_of("dropin")([*files, "--device", "cpu"])
    assert capsys.readouterr().out.splitlines() == [f"{file}\t{text}" for file, text in zip(files, texts)]


def test_accelerate_pipeline(files_and_texts, capsys):
    files, texts = files_and_texts
    main_of("accelerate_pipeline")([*files, "--batch-size", "1"])
    *lines, speed = capsys.readouterr().out.splitlines()
    assert lines == [f"{file}\t{text}" for file, text in zip(files, texts)]
    assert speed.startswith("transformers: ") and "accelerated: " in speed


def test_transcribe_folder(files_and_texts, tmp_path):
    files, texts = files_and_texts
    for file in files:
        (tmp_path / Path(file).name).write_bytes(Path(file).read_bytes())
    (tmp_path / "empty.wav").touch()
    table = tmp_path / "table.csv"
    # in a process of its own, as users run it
    command = [sys.executable, str(FOLDER / "transcribe_folder.py"), str(tmp_path), str(table), "--device", "cpu"]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    with open(table, newline="", encoding="utf-8") as file:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    assert {name: row["text"] for name, row in rows.items()} == {
        **{Path(file).name: text for file, text in zip(files, texts)},
        "empty.wav": "",
    }
    assert "empty.wav: the file is empty" in rows["empty.wav"]["error"]


def test_units(files_and_texts, tmp_path, capsys):
    files, _ = files_and_texts
    (tmp_path / "empty.wav").touch()
    saved = tmp_path / "km.safetensors"
    arguments = [*files, str(tmp_path / "empty.wav"), "--clusters", "20", "--save", str(saved), "--device", "cpu"]
    main_of("units")(arguments)
    *lines, error = capsys.readouterr().out.splitlines()
    assert "empty.wav: the file is empty" in error
    assert Centroids.load(saved).source.layer == 3
    encoder = Encoder.from_pretrained(demo.MODEL, kmeans=saved, device="cpu")
    for file, line in zip(files, lines, strict=True):
        units = encoder.encode_file(file).units
        runs = units[np.flatnonzero(np.diff(units, prepend=-1))]
        assert line == f"{file} {' '.join(map(str, runs))}"


def test_finetune_ctc(tmp_path):
    losses = main_of("finetune_ctc")(["--steps", "6", "--batch-size", "2", "--save", str(tmp_path)])
    assert len(losses) == 6 and max(losses[-2:]) < 0.5 * losses[0], losses
    assert hubert_fast.HubertForCTC.from_pretrained(tmp_path).config.vocab_size == 32

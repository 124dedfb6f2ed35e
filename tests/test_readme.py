"""Check README.md, docs/ and their companions: snippets run as printed; links, paths, names, options and targets exist.

The demo's checkpoint and recordings stand in for a hub name and for the reader's own files.
"""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hubert_fast
from hubert_fast import audio, demo, ops
from hubert_fast.cli import main
from hubert_fast.transcribe import formats
from hubert_fast.units.formats import FEATURES, UNITS

ROOT = Path(hubert_fast.__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
PROSE = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "RELEASING.md"))]
pytestmark = pytest.mark.skipif(not README.exists(), reason="the package under test is not a checkout")
every_page = pytest.mark.parametrize("page", PROSE, ids=lambda page: page.stem)


def snippets_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def code_of(page: Path) -> list[str]:
    """Return code blocks, and the text between backticks outside them."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return blocks + re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())) for heading in headings}


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 10_000


@pytest.mark.parametrize(
    "page",
    # test_tensorflow_serving.py runs the snippets of tensorflow.md
    [page for page in PAGES if page.exists() and page.stem != "tensorflow" and snippets_of(page)],
    ids=lambda page: page.stem,
)
def test_python_snippets_run(page, capsys, tmp_path, monkeypatch):
    import transformers

    shutil.copytree(demo.MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("recordings"))
    # in float32, as published checkpoints are: transformers 5 keeps the dtype
    hubert_fast.HubertForCTC.from_pretrained(demo.MODEL).save_pretrained(tmp_path / "model")
    (tmp_path / "vocab.json").write_text('{"a": 0, "|": 1, "[UNK]": 2, "[PAD]": 3}')
    waveforms = [audio.load(recording.path) for recording in demo.recordings()[:2]]
    first, second = (recording.reference.upper() for recording in demo.recordings()[:2])
    shared = dict(waveform=waveforms[0], waveforms=waveforms, first=waveforms[0], second=waveforms[1], third=waveforms[0])
    if page.stem == "units":
        monkeypatch.chdir(tmp_path)
        assert main(["features", str(demo.RECORDINGS), "--layer", "3", "-o", "features", "--quiet", "--device", "cpu"]) == 0
    seen = set()
    for snippet in snippets_of(page):
        code = re.sub(r"facebook/hubert-(large-ls960-ft|base-ls960)", str(tmp_path / "model"), snippet)
        code = code.replace("vocab.json", str(tmp_path / "vocab.json"))
        code = code.replace('"talks/", "more.jsonl"', f"{str(demo.RECORDINGS)!r}")
        code = code.replace("talk.mp3", str(demo.recordings()[0].path))
        code = code.replace("[6, 9]", "[2, 3]").replace("frames[9]", "frames[3]")  # the demo's model has four layers
        if "accelerate" in code:
            model = transformers.HubertForCTC.from_pretrained(demo.MODEL)
            exec(code, {"model": model})
            assert type(model.hubert.forward).__name__ == "FastForward"
            continue
        exec(code, shared)
        printed = capsys.readouterr().out.splitlines()
        if "transcribe_many" in code:
            assert sorted(line.split(" ")[0] for line in printed) == sorted(str(each.path) for each in demo.recordings())
        elif "encode_many" in code:
            shapes = {line.split(" ")[0]: line.partition(" ")[2] for line in printed}
            assert sorted(shapes) == sorted(str(each.path) for each in demo.recordings())
            assert shapes[str(demo.recordings()[0].path)] == str(shared["frames"].shape)
            np.testing.assert_array_equal(shared["frames"], shared["same"])
        elif "index.jsonl" in code:
            assert sorted(shared["frames"]) == sorted(str(each.path) for each in demo.recordings())
            kept = shared["frames"].copy()
        elif "FrameReader" in code:
            from sklearn.metrics import pairwise_distances_argmin

            centroids, encoding = shared["centroids"], shared["encoding"]
            frames = kept[str(demo.recordings()[0].path)].astype(np.float32)
            nearest = pairwise_distances_argmin(frames, centroids.values)
            assert centroids.source.layer == 3
            assert np.mean(np.repeat(encoding.units, encoding.durations) == nearest) > 0.97  # features are float16
        elif "EncodeBatch" in code:
            columns, merged = shared["columns"], shared["encoding"]
            assert columns["error"] == [None, None] and columns["units"][0].tolist() == columns["units"][1].tolist()
            assert np.mean(columns["units"][0] == np.repeat(merged.units, merged.durations)) == 1
        elif "hidden_states" in code:
            states = shared["encoder"](torch.tensor(waveforms[0])[None], output_hidden_states=True).hidden_states
            assert printed[0] == " ".join(str(states[layer][0].shape) for layer in (2, 3)) and len(printed) == 3
        elif "argmax_packed" in code:
            assert printed == [first, second, first]
        elif "greedy_decode" in code:
            assert [line.partition(" [Word(")[0] for line in printed] == [first, second]
        elif "batch_decode" in code:
            assert shared["text"] == [first]
        elif "rows = processor(" in code:
            counts = shared["batch"].attention_mask.sum(-1).tolist()
            assert [len(row) for row in shared["rows"].input_values] == counts == [len(waveform) for waveform in waveforms]
            letters = hubert_fast.CTCTokenizer.from_pretrained(demo.MODEL).convert_ids_to_tokens
            assert ["".join(letters(ids)) for ids in shared["labels"]] == ["MOVE|FORWARD", "STOP"]
            assert shared["processor"](text="a b").input_ids == [0, 1, 2] and shared["tokenizer"].pad_token_id == 3
        elif "import HubertForCTC, HubertProcessor" in code:
            assert type(shared["model"]) is hubert_fast.HubertForCTC
        elif "per_utterance" in code:
            decode = shared["processor"].decode
            assert [decode(logits.argmax(-1)) for logits in shared["per_utterance"]] == [first, second, first]
            assert shared.get("texts", [first, second, first]) == [first, second, first]
        else:
            assert "assert" in code, "no check is known for this snippet"
        seen.add(code)
    assert seen


@every_page
def test_link_targets_exist(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{page.name}: {link}, but there are {sorted(anchors_of(target))}"


@every_page
def test_make_targets_exist(page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for code in code_of(page) for name in re.findall(r"\bmake ([a-z][\w-]*)", code)}
    assert named <= set(targets)


@every_page
def test_options_exist(page):
    """Every option on a page belongs to the command line, to a program of bench/, or to a tool named before it."""
    known = "".join(
        path.read_text(encoding="utf-8") for path in (*ROOT.glob("hubert_fast/**/*.py"), *ROOT.glob("bench/**/*.py"))
    )
    for code in code_of(page):
        if re.match(r"(pip|git|python -m|twine)\b", code):
            continue
        unknown = [option for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", code) if f'"{option}"' not in known + '"--help"']
        assert not unknown, f"{page.name}: {code}"


def test_each_kernel_and_op_is_described():
    text = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    kernels = {path.name for path in (ROOT / "kernels").glob("*.py")} - {"tuned.py"}
    assert {name for name in kernels if f"`kernels/{name}`" not in text} == set()
    assert {name for name in ops.__all__ if not name.endswith("_eager") and f"`{name}`" not in text} == set()


def test_each_format_and_option_of_transcribe_is_described():
    text = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("transcribing.md", "scaling.md", "index.md"))
    table = re.search(r"\| format \|.*?\n\n", text, re.DOTALL)[0]
    assert {name for name in formats.FORMATS if f"`{name}`" not in table} == set()
    help_text = subprocess.run(
        [sys.executable, "-m", "hubert_fast", "transcribe", "--help"], capture_output=True, text=True
    ).stdout
    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", help_text)) - {"--help", "--output"}
    assert {option for option in options if option not in text} == set()


@pytest.mark.parametrize("command", ["features", "kmeans", "units", "label"])
def test_each_format_and_option_of_features_and_units_is_described(command):
    text = (ROOT / "docs" / "units.md").read_text(encoding="utf-8")
    tables = "".join(re.findall(r"\| `--format` \|.*?\n\n", text, re.DOTALL))
    assert {name for name in (*FEATURES.formats, *UNITS.formats) if f"`{name}`" not in tables} == set()
    for name in ("transcribing.md", "scaling.md", "index.md"):
        text += (ROOT / "docs" / name).read_text(encoding="utf-8")
    help_text = subprocess.run([sys.executable, "-m", "hubert_fast", command, "--help"], capture_output=True, text=True).stdout
    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", help_text)) - {"--help", "--output"}
    assert len(options) > 5 and {option for option in options if option not in text} == set()


def test_the_first_examples_of_units_run(tmp_path, monkeypatch):
    """The units themselves depend on rounding, so only the form of what is printed is compared."""
    pytest.importorskip("sklearn")
    text = (ROOT / "docs" / "units.md").read_text(encoding="utf-8")
    (tmp_path / "recordings").symlink_to(demo.RECORDINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    blocks = [block for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) if block.startswith("$ ")]
    steps = [step.partition("\n") for block in blocks for step in block.removeprefix("$ ").split("\n$ ")]
    assert sum(command.startswith("hubert-fast ") for command, _, _ in steps) == 5
    for command, _, shown in steps:
        line = command.replace("hubert-fast", f"{sys.executable} -m hubert_fast")
        line = f"{line} | paste -sd ' '" if command.startswith("ls") else line
        run = subprocess.run(line, shell=True, capture_output=True, text=True)
        assert run.returncode == 0 and not run.stderr, (command, run.stderr)
        assert form_of(run.stdout) == form_of(shown), command


def form_of(output: str) -> str:
    """Return output with numbers and the spaces between them replaced, so that only their kind is compared."""
    return re.sub(r"[\d ,.]+$", "", re.sub(r"\d+([ ,]+\d+)*", "0", re.sub(r"\s*\n", "\n", re.sub(" +", " ", output)))).strip()


@every_page
def test_paths_exist(page):
    """Paths below the repository's folders; a path with a word in capitals is a placeholder."""
    for code in code_of(page):
        for path in re.findall(r"(?<![\w/.])(?:bench|csrc|docs|examples|hubert_fast|kernels|tests)/[\w./-]*", code):
            if not re.search(r"[A-Z]{3}", path):
                assert (ROOT / path.rstrip(".")).exists(), f"{page.name}: {path}"


@every_page
def test_dotted_names_exist(page):
    for code in code_of(page):
        for name in re.findall(r"(?<![\w/.])hubert_fast(?:\.\w+)+(?![\w/])", code):
            if name.startswith("hubert_fast.tensorflow"):  # cannot be imported without TensorFlow
                known = re.findall(r'^    "(\w+)",$', (ROOT / "hubert_fast" / "tensorflow.py").read_text(), re.MULTILINE)
                assert not name.split(".")[2:] or name.split(".")[2] in known, name
                continue
            value = hubert_fast
            for depth, part in enumerate(name.split(".")[1:], 2):
                if not hasattr(value, part):
                    importlib.import_module(".".join(name.split(".")[:depth]))
                value = getattr(value, part)


def test_documented_layout_matches_the_package():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"^```\n(hubert_fast/\n.*?)^```", text, re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"\b\w+\.py\b", tree))
    assert named <= {path.name for path in (ROOT / "hubert_fast").rglob("*.py")}
    assert named >= {path.name for path in (ROOT / "hubert_fast" / "packed").glob("*.py")} - {"__init__.py"}
    folders = {path.name for path in (ROOT / "hubert_fast").iterdir() if (path / "__init__.py").exists()}
    assert {folder for folder in folders if f" {folder}/" not in tree} == set()


def test_identifiers_in_contributing_exist_in_the_named_files():
    """Each identifier in a section of steps occurs in one of the files that the section names."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        if section.startswith("Add "):
            code = re.findall(r"`([^`\n]+)`", section)
            files = {name for piece in code for name in re.findall(r"[\w/]+\.py\b", piece) if "NAME" not in name}
            sources = "".join((ROOT / name).read_text(encoding="utf-8") for name in files)
            names = {name for name in code if re.fullmatch(r"[A-Za-z_]\w+", name) and "NAME" not in name}
            assert {name for name in names if not re.search(rf"\b{name}\b", sources)} == set(), section.partition("\n")[0]

"""Run `hubert-fast features`, `kmeans`, `units` and `label`: every format, and runs that are killed at any step."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pyarrow import parquet

from hubert_fast import demo
from hubert_fast.cli import main
from hubert_fast.jobs.command import _name_of
from hubert_fast.jobs.inputs import Inputs
from hubert_fast.jobs.sampling import SampledInputs
from hubert_fast.units import Centroids, Encoder, FrameReader
from hubert_fast.units.formats import FEATURES

FLOAT32 = ["--device", "cpu", "--dtype", "float32"]
LAYER = 2
pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Return a folder with 28 recordings, half of them links, and a file that is not audio."""
    folder = tmp_path_factory.mktemp("archive")
    for number, recording in enumerate(demo.recordings()):
        shutil.copy(recording.path, folder / f"{number:02d}{recording.path.suffix}")
        os.link(folder / f"{number:02d}{recording.path.suffix}", folder / f"{number + 14:02d}{recording.path.suffix}")
    (folder / "07.bad.wav").write_text("not audio")
    return folder


@pytest.fixture(scope="module")
def expected(archive) -> dict[str, np.ndarray]:
    """Return the frames of each file, by name."""
    encoder = Encoder.from_pretrained(demo.MODEL, layers=[LAYER], device="cpu", dtype="float32")
    return {path.name: encoder.encode_file(path).frames[LAYER] for path in sorted(archive.iterdir()) if "bad" not in path.name}


@pytest.fixture(scope="module")
def kmeans(expected, tmp_path_factory) -> Path:
    """Return a file with centroids of the frames of the archive."""
    from sklearn.cluster import KMeans

    path = tmp_path_factory.mktemp("kmeans") / "km.safetensors"
    values = KMeans(30, n_init=1, random_state=0).fit(np.concatenate([*expected.values()])).cluster_centers_
    encoder = Encoder.from_pretrained(demo.MODEL, layers=[LAYER], device="cpu", dtype="float32")
    Centroids(values.astype(np.float32), encoder.sources[0]).save(path)
    return path


def features(*arguments) -> int:
    return main(["features", *map(str, arguments), *FLOAT32])


def units(*arguments) -> int:
    return main(["units", *map(str, arguments), *FLOAT32])


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def frames_of(folder: Path, layer: int = LAYER) -> dict[str, np.ndarray]:
    """Return the frames that a folder of shards holds, by the name of the file."""
    rows = rows_of(folder / "index.jsonl")
    assert len({row["id"] for row in rows}) == len(rows), "an utterance is there twice"
    shards = {number: np.load(folder / f"layer{layer}-{number:05d}.npy") for number in {row["shard"] for row in rows}}
    return {Path(row["audio"]).name: shards[row["shard"]][row["start"] : row["start"] + row["frames"]] for row in rows}


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 2e-3) -> None:
    """Compare frames; float16 keeps 11 bits, and values reach 20."""
    assert actual.keys() == expected.keys()
    for name, frames in expected.items():
        assert actual[name].shape == frames.shape
        assert np.abs(actual[name] - frames).max() <= tolerance * np.abs(frames).max(), name


@pytest.mark.parametrize("options", [[], ["--shard-megabytes", "0.4"], ["--frame-dtype", "float32"]], ids=str)
def test_shards(archive, expected, options, tmp_path, capsys):
    out = tmp_path / "out"
    assert features(archive, "--layer", f"{LAYER},0", "-o", out, *options) == 1
    assert_same(frames_of(out), expected)
    description = json.loads((out / "features.json").read_text())
    assert description["layers"] == [LAYER, 0] and description["channels"] == 256
    sizes = [path.stat().st_size for path in sorted(out.glob(f"layer{LAYER}-*.npy"))]
    if "0.4" in options:
        assert len(sizes) > 4 and max(sizes) <= 400_000
    else:
        assert len(sizes) == 1
    reader = FrameReader(out, LAYER)
    assert reader.count == sum(map(len, expected.values())) and reader.source.layer == LAYER
    assert [row["id"] for row in rows_of(tmp_path / "out.errors.jsonl")] == [str(archive / "07.bad.wav")]
    assert "1 of 29 inputs could not be encoded" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out.summary.json").read_text())
    assert (summary["encoded"], summary["failed"], summary["complete"]) == (28, 1, True) and "wer" not in summary


def test_a_file_for_each_input(archive, expected, tmp_path):
    assert features(archive, "--layer", LAYER, "-o", tmp_path / "out", "--format", "npy") == 1
    actual = {path.name: np.load(path) for path in (tmp_path / "out").glob("*.npy")}
    names = {Path(name).with_suffix(".npy").name: frames for name, frames in expected.items()}
    assert_same(actual, names)
    recording = demo.recordings()[0].path
    assert features(recording, "--layer", f"{LAYER},0", "-o", tmp_path / "one.npy", "--pool", "mean") == 0
    assert np.load(tmp_path / "one.npy").shape == (2, 1, 256)


def test_fairseqs_files(archive, expected, tmp_path, capsys):
    lines = [str(archive), *(f"{path.name}\t1" for path in sorted(archive.iterdir()))]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    command = [tmp_path / "train.tsv", "--layer", LAYER, "-o", tmp_path / "out", "--format", "fairseq"]
    assert features(*command) == 1
    lengths = [int(line) for line in (tmp_path / "out" / "train_0_1.len").read_text().splitlines()]
    names = [path.name for path in sorted(archive.iterdir())]
    assert lengths == [len(expected[name]) if name in expected else 0 for name in names]
    assert lengths[names.index("07.bad.wav")] == 0
    frames = np.split(np.load(tmp_path / "out" / "train_0_1.npy"), np.cumsum(lengths)[:-1])
    assert_same({name: part for name, part in zip(names, frames, strict=True) if name in expected}, expected)
    assert features(*command) == 1 and "already done" in capsys.readouterr().err
    assert features(*command, "--retry-failed") == 2 and "belongs to input i" in capsys.readouterr().err
    assert features(*command[:2], "0,1", *command[3:], "--overwrite") == 2 and "one layer" in capsys.readouterr().err


def parquet_of(folder: Path) -> list[dict]:
    """Return the rows of all parts."""
    assert not [*folder.glob("*.arrows"), *folder.glob("*.unfinished")]
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]
    assert len({row["row"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)
    return rows


@pytest.mark.parametrize("options", [["--shard-megabytes", "0.4"], ["--frame-dtype", "float32"]], ids=str)
def test_parquet(archive, expected, options, tmp_path):
    out = tmp_path / "out"
    folder = shutil.copytree(archive, tmp_path / "copy")
    command = [folder, "--layer", f"{LAYER},0", "-o", out, "--format", "parquet", "--batch-seconds", 20, *options]
    assert features(*command) == 1
    frames = {Path(row["audio"]).name: np.array(row[f"layer{LAYER}"]) for row in parquet_of(out)}
    assert_same(frames, expected)
    shutil.copy(demo.recordings()[0].path, folder / "05.wav")
    assert features(*command) == 1
    frames = {Path(row["audio"]).name: np.array(row[f"layer{LAYER}"]) for row in parquet_of(out)}
    assert_same(frames, {**expected, "05.wav": expected[min(expected)]})
    assert parquet.read_schema(out / "part-00000.parquet").field("layer0").type.value_type.list_size == 256


def test_parquet_of_units(archive, expected, kmeans, tmp_path):
    centroids = Centroids.load(kmeans).values
    nearest = {name: ((centroids**2).sum(1) - 2 * frames @ centroids.T).argmin(1).tolist() for name, frames in expected.items()}
    command = [archive, "--kmeans", kmeans, "--format", "parquet"]
    assert units(*command, "-o", tmp_path / "out") == 1
    rows = parquet_of(tmp_path / "out")
    assert {Path(row["audio"]).name: row["units"] for row in rows} == nearest
    assert {row["channel"] for row in rows} == {row["reference"] for row in rows} == {None}
    assert units(*command, "-o", tmp_path / "merged", "--merge") == 1
    for row in parquet_of(tmp_path / "merged"):
        assert np.repeat(row["units"], row["durations"]).tolist() == nearest[Path(row["audio"]).name]
    assert units(archive / min(expected), "--kmeans", kmeans, "--format", "parquet") == 2, "not to standard output"


def test_a_changed_file_has_its_row_replaced(archive, expected, tmp_path, capsys):
    folder = shutil.copytree(archive, tmp_path / "copy")
    command = [folder, "--layer", LAYER, "-o", tmp_path / "out"]
    assert features(*command) == 1
    shutil.copy(demo.recordings()[0].path, folder / "05.wav")
    (folder / "07.bad.wav").unlink()
    assert features(*command) == 1
    first = next(iter(sorted(expected)))
    assert_same(frames_of(tmp_path / "out"), {**expected, "05.wav": expected[first]})
    assert FrameReader(tmp_path / "out").count == sum(map(len, expected.values())) - len(expected["05.wav"]) + len(
        expected[first]
    )
    assert "1 input changed since the last run" in capsys.readouterr().err


def test_rows_in_the_order_of_inputs_refuse_changed_files(archive, kmeans, tmp_path, capsys):
    folder = shutil.copytree(archive, tmp_path / "copy")
    command = [folder, "--kmeans", kmeans, "-o", tmp_path / "out.km"]
    assert units(*command) == 1
    shutil.copy(demo.recordings()[0].path, folder / "05.wav")
    assert units(*command) == 2
    assert "05.wav has changed since it was done: keep files as they were, or use --overwrite" in capsys.readouterr().err
    assert units(*command, "--overwrite") == 1
    rows = (tmp_path / "out.km").read_text()
    shutil.copy(demo.recordings()[0].path, folder / "00.new.wav")
    assert units(*command) == 2
    assert "00.new.wav is new, but comes before inputs that are done" in capsys.readouterr().err
    (folder / "00.new.wav").rename(folder / "99.wav")
    assert units(*command) == 1 and (tmp_path / "out.km").read_text().startswith(rows)
    assert units(folder / "01.wav", folder / "01.wav", "--kmeans", kmeans, "-o", tmp_path / "twice.km") == 2
    assert "01.wav is named twice" in capsys.readouterr().err
    assert units(*command[:3], "-o", tmp_path / "merged.km", "--merge") == 2
    assert "km has no place for durations" in capsys.readouterr().err


def test_unit_formats(archive, expected, kmeans, tmp_path, capsys):
    centroids = Centroids.load(kmeans).values
    nearest = {name: ((centroids**2).sum(1) - 2 * frames @ centroids.T).argmin(1).tolist() for name, frames in expected.items()}
    assert units(archive, "--kmeans", kmeans, "-o", tmp_path / "out.jsonl") == 1
    rows = rows_of(tmp_path / "out.jsonl")
    assert {Path(row["audio"]).name: row["units"] for row in rows} == nearest and "durations" not in rows[0]
    assert units(archive, "--kmeans", kmeans, "-o", tmp_path / "merged.jsonl", "--merge") == 1
    for row in rows_of(tmp_path / "merged.jsonl"):
        assert np.repeat(row["units"], row["durations"]).tolist() == nearest[Path(row["audio"]).name]
    assert units(archive, "--kmeans", kmeans, "-o", tmp_path / "out.km") == 1
    lines = (tmp_path / "out.km").read_text().split("\n")
    names = [path.name for path in sorted(archive.iterdir())]
    assert [[*map(int, line.split())] for line in lines[:-1]] == [nearest.get(name, []) for name in names]
    assert units(archive, "--kmeans", kmeans, "-o", tmp_path / "out.tsv", "--merge") == 1
    for line in (tmp_path / "out.tsv").read_text().splitlines():
        id, runs, durations = line.split("\t")
        assert np.repeat([*map(int, runs.split())], [*map(int, durations.split())]).tolist() == nearest[Path(id).name]
    capsys.readouterr()
    first = min(nearest)
    assert units(archive / first, "--kmeans", kmeans) == 0
    assert capsys.readouterr().out == " ".join(map(str, nearest[first])) + "\n"
    assert units(archive / first, archive / "05.wav", "--kmeans", kmeans) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == [
        str(archive / first),
        str(archive / "05.wav"),
    ]


KILLED = """
import os, sys
from hubert_fast.cli import main
from hubert_fast.jobs import job, journal, parquet_parts
from hubert_fast.units import frame_shards

def dies(owner, name, call, after):
    real, calls = getattr(owner, name), [0]
    def replaced(*arguments, **options):
        calls[0] += 1
        if calls[0] == call and not after:
            os._exit(9)
        result = real(*arguments, **options)
        if calls[0] == call:
            os._exit(9)
        return result
    setattr(owner, name, replaced)

dies({owner}, {name!r}, {call}, {after})
job.COMMIT_SECONDS = 0.0
sys.exit(main(sys.argv[1:]))
"""
STEPS = [
    ("shards", "frame_shards.NpyWriter", "append"),
    ("shards", "frame_shards.NpyWriter", "sync"),
    ("shards", "journal.Journal", "commit"),
    ("parquet", "parquet_parts.ParquetParts", "write"),
    ("parquet", "parquet_parts.ParquetParts", "_write_parquet"),
    ("parquet", "journal.Journal", "commit"),
]


@pytest.mark.parametrize("format, owner, name", STEPS, ids=[f"{format}, {name}" for format, _, name in STEPS])
def test_killed_at_any_step_nothing_is_lost_or_doubled(archive, expected, format, owner, name, tmp_path):
    out = tmp_path / "out"
    command = ["features", str(archive), "--layer", str(LAYER), "-o", str(out), "--shard-megabytes", "0.4", *FLOAT32]
    command += ["--format", format, "--batch-seconds", "20"]
    for call, after in ((2, False), (3, True), (6, False)):
        code = KILLED.format(owner=owner, name=name, call=call, after=after)
        process = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=300)
        assert process.returncode in (1, 9), process.stderr
        for path in out.glob("*.npy"):
            np.load(path)  # whatever is there can be read
        for path in out.glob("*.parquet"):
            parquet.read_table(path)
    assert main(command) == 1
    if format == "parquet":
        assert_same({Path(row["audio"]).name: np.array(row[f"layer{LAYER}"]) for row in parquet_of(out)}, expected)
        return
    assert_same(frames_of(out), expected)
    assert sum(len(np.load(path)) for path in out.glob("*.npy")) == sum(map(len, expected.values())), "frames without a row"


def test_a_sample_is_random_reproducible_and_can_grow(archive, tmp_path, capsys):
    def sample(out: str, frames: int, seed: int, *options) -> set[str]:
        status = features(archive, "--layer", 0, "-o", tmp_path / out, "--sample-frames", frames, "--seed", seed, *options)
        assert status in (0, 1), capsys.readouterr().err
        return {Path(row["audio"]).name for row in rows_of(tmp_path / out / "index.jsonl")}

    small, large = sample("a", 800, 0), sample("b", 2000, 0)
    assert small < large and len(large) < 28
    for names, frames, out in ((small, 800, "a"), (large, 2000, "b")):
        count = FrameReader(tmp_path / out).count
        seconds = sum(soundfile.info(archive / name).duration for name in names)
        longest = max(soundfile.info(archive / name).duration for name in names)
        assert frames <= seconds * 50 < frames + longest * 50, "the sample ends with the input that completes it"
        assert seconds * 50 - 2 * len(names) < count <= seconds * 50
    assert sample("a", 2000, 0) == large, "a sample grows"
    assert sample("c", 800, 1) != small
    assert sample("d", "1e6", 0) == {path.name for path in archive.iterdir() if "bad" not in path.name}
    assert features(archive, "--layer", 0, "-o", tmp_path / "a", "--sample-frames", 2000, "--seed", 3) == 2
    assert "sample seed was 0, is 3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        features(archive, "--layer", 0, "-o", tmp_path / "e", "--sample-frames", "some")


def test_kmeans_of_features(archive, expected, tmp_path, capsys):
    out, km = tmp_path / "out", tmp_path / "km.safetensors"
    assert features(archive, "--layer", f"{LAYER},0", "-o", out) == 1
    command = ["kmeans", str(out), "-o", str(km), "--clusters", "20"]
    assert main(command) == 2 and "choose one" in capsys.readouterr().err
    assert main([*command, "--layer", str(LAYER)]) == 0 and "20 centroids of 256 channels" in capsys.readouterr().err
    centroids = Centroids.load(km)
    assert centroids.source.layer == LAYER and centroids.source.model == "demo" and centroids.clusters == 20
    frames = np.concatenate([*expected.values()])
    distances = ((frames[:, None] - centroids.values) ** 2).sum(-1).min(1).mean()
    assert distances < 0.8 * frames.var(0).sum()
    assert main([*command, "--layer", str(LAYER)]) == 2 and "exists already" in capsys.readouterr().err
    first = centroids.values
    assert main([*command, "--layer", str(LAYER), "--overwrite", "--quiet"]) == 0
    assert np.array_equal(Centroids.load(km).values, first), "the same seed gives the same centroids"
    assert units(archive / "05.wav", "--kmeans", km, "--layer", 0) == 2
    assert "layer is 0, but the centroids were learnt on layer 2" in capsys.readouterr().err


def test_kmeans_that_is_interrupted_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    frames, km = tmp_path / "frames.npy", tmp_path / "km.safetensors"
    np.save(frames, np.random.default_rng(0).standard_normal((5000, 8), np.float32))
    command = ["kmeans", str(frames), "-o", str(km), "--clusters", "20"]

    def interrupt(_, step):
        if step.epoch == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("hubert_fast.units.command.LearningProgress.step", interrupt)
        epoch = 1
        assert main(command) == 130 and capsys.readouterr().err == "hubert-fast: interrupted\n"
        epoch = 2
        assert main(command) == 130
        lines = "hubert-fast: the same command continues after the last complete epoch\nhubert-fast: interrupted\n"
        assert capsys.readouterr().err == lines and not km.exists()
    assert main(command) == 0
    assert "epoch 1:" not in capsys.readouterr().err and Centroids.load(km).clusters == 20


LABEL_STEPS = ("run_features", "run_kmeans", "run_units")


@pytest.mark.parametrize("format", ["jsonl", "km"])
def test_labels_in_one_command_that_is_killed_between_steps(archive, format, tmp_path):
    command = ["label", str(archive), "--layer", str(LAYER), "--clusters", "12", "--frames", "1500", "--format", format]
    command += FLOAT32
    assert main([*command, "-o", str(tmp_path / "whole")]) == 1
    labels = (tmp_path / "whole" / f"labels.{format}").read_text().splitlines()
    assert not (tmp_path / "whole" / "sample").exists()
    for step in LABEL_STEPS:
        code = (
            "import os, sys; from hubert_fast.cli import main; from hubert_fast.units import label_command as steps; "
            f"steps.{step} = lambda options: os._exit(9); sys.exit(main(sys.argv[1:]))"
        )
        arguments = [sys.executable, "-c", code, *command, "-o", str(tmp_path / "out")]
        process = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
        assert process.returncode == 9, process.stderr
    assert (tmp_path / "out" / "kmeans.safetensors").exists()
    assert main([*command, "-o", str(tmp_path / "out"), "--keep-sample"]) == 1
    assert sorted((tmp_path / "out" / f"labels.{format}").read_text().splitlines()) == sorted(labels)
    assert FrameReader(tmp_path / "out" / "sample").count >= 1400
    if format == "km":
        names = [path.name for path in sorted(archive.iterdir())]
        assert [not line for line in labels] == ["bad" in name for name in names]
        assert (tmp_path / "out" / "dict.km.txt").read_text().splitlines() == [f"{unit} 1" for unit in range(12)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["features", "x.wav", "--layer", "99", "-o", "OUT"], "one is 99"),
        (["features", "x.wav", "--layer", "1", "-o", "OUT.txt"], "unknown suffix"),
        (["features", "x.wav", "--layer", "1", "-o", "OUT", "--shard-megabytes", "0"], "above 0"),
        (["features", "x.wav", "--layer", "1", "-o", "OUT", "--final-norm", "yes", "--project"], "final_proj"),
        (["units", "x.wav", "--kmeans", "missing.bin"], "missing.bin"),
        (["kmeans", "missing", "-o", "OUT"], "missing"),
        (["label", "x.wav", "--layer", "1,2", "-o", "OUT"], "names 2"),
        (["label", "x.wav", "--layer", "1", "-o", "OUT", "--shard", "1/2"], "same centroids"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("first", FEATURES.formats)
@pytest.mark.parametrize("second", FEATURES.formats)
def test_overwrite_leaves_nothing_of_the_replaced_output(first, second, tmp_path):
    """Readers take a folder as a whole, so frames of an earlier layer must not stay in it. Files of the user do."""
    out, new = tmp_path / "out", tmp_path / "new"
    recordings = [recording.path for recording in demo.recordings()[:3]]
    assert features(*recordings, "--layer", LAYER, "-o", f"{out}/", "--format", first) == 0
    own = [out / name for name in ("own.npy", "part-final.txt", "part-00007.txt", "layer9.npy")]
    for path in own:
        path.write_text("kept")
    arguments = [*recordings[:2], "--layer", 0, "--format", second]
    assert features(*arguments, "-o", f"{out}/", "--overwrite") == 0
    assert features(*arguments, "-o", f"{new}/") == 0
    assert {path.name for path in out.iterdir()} - {path.name for path in own} == {path.name for path in new.iterdir()}
    assert all(path.read_text() == "kept" for path in own)


def test_a_refused_format_leaves_nothing_behind(tmp_path, capsys):
    recording, out = demo.recordings()[0].path, tmp_path / "out"
    assert features(recording, "--layer", f"{LAYER},0", "-o", out, "--format", "fairseq") == 2
    assert "fairseq's files hold one layer, but there are 2" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
    assert features(recording, "--layer", LAYER, "-o", out, "--format", "fairseq") == 0
    before = (tmp_path / "out.journal").stat()
    assert features(recording, "--layer", f"{LAYER},0", "-o", out, "--format", "fairseq", "--overwrite") == 2
    assert features(recording, "--layer", LAYER, "-o", out, "--format", "fairseq") == 0, "the output can still be continued"
    assert (tmp_path / "out.journal").stat().st_ino == before.st_ino


def test_parquet_without_pyarrow_is_refused_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hubert_fast.jobs.formats.find_spec", lambda name: None)
    monkeypatch.setattr(Encoder, "from_pretrained", lambda *_, **__: pytest.fail("a model is loaded"))
    assert features(demo.recordings()[0].path, "--layer", LAYER, "-o", tmp_path / "out", "--format", "parquet") == 2
    assert "parquet needs pyarrow: pip install 'hubert_fast[parquet]'" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("format", ["shards", "parquet"])
def test_files_that_are_missing_are_noticed(archive, format, tmp_path, capsys):
    out = tmp_path / "out"
    command = [archive, "--layer", LAYER, "-o", out, "--format", format, "--shard-megabytes", "0.2"]
    assert features(*command) == 1
    first = next(path for path in sorted(out.iterdir()) if "00000" in path.name)
    first.unlink()
    capsys.readouterr()
    assert features(*command) == 2
    assert first.name in (text := capsys.readouterr().err) and "restore it, or start over with --overwrite" in text


def test_a_sample_has_as_many_frames_as_were_asked_for(tmp_path):
    """A frame less than 50 a second is lost at the end of each file, which counts if files are short."""
    for number in range(60):
        soundfile.write(tmp_path / f"{number}.wav", np.random.default_rng(number).standard_normal(720) / 9, 16000)
    for frames in (60, 61):
        out = tmp_path / f"out{frames}"
        assert features(tmp_path, "--layer", 0, "-o", out, "--sample-frames", frames) == 0
        assert sum(row["frames"] for row in rows_of(out / "index.jsonl")) == 2 * -(-frames // 2)
    stereo = tmp_path / "stereo"
    stereo.mkdir()
    for number in range(10):
        samples = np.random.default_rng(number).standard_normal((720, 2)) / 9
        soundfile.write(stereo / f"{number}.wav", samples, 16000)
    assert features(stereo, "--layer", 0, "-o", tmp_path / "each", "--sample-frames", 7, "--channels", "each") == 0
    assert sum(row["frames"] for row in rows_of(tmp_path / "each" / "index.jsonl")) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard-megabytes", "inf"], "shard megabytes must be a number above 0, but are inf"),
        (["--sample-frames", "10", "--seed", "99999999999999999999"], "seed must be from 0 to 4294967295"),
        (["--sample-frames", "10", "--seed", "-1"], "seed must be from 0 to 4294967295"),
    ],
)
def test_numbers_that_are_too_large_are_refused(arguments, message, tmp_path, capsys):
    assert features(demo.recordings()[0].path, "--layer", LAYER, "-o", tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err and not [*tmp_path.iterdir()]


def label(*arguments) -> int:
    return main(["label", *map(str, arguments), "--layer", str(LAYER), *FLOAT32])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "km", "--merge"], "km has no place for durations"),
        (["--format", "km", "--channels", "each"], "km has a row for each input"),
        (["--format", "km", "--retry-failed"], "--retry-failed would put rows out of order"),
        (["--seed", "-1"], "seed must be at least 0, but is -1"),
        (["--seed", "5000000000"], "seed must be at most 4294967295"),
        (["--epochs", "0"], "epochs must be at least 1"),
    ],
)
def test_label_refuses_before_its_first_step(arguments, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert label(demo.recordings()[0].path, "-o", out, "--clusters", 5, *arguments) == 2
    assert message in capsys.readouterr().err and not out.exists()


def test_label_learns_from_inputs_that_were_added(tmp_path, capsys):
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    recordings = [recording.path for recording in demo.recordings()]
    shutil.copy(recordings[0], inputs)
    assert label(inputs, "-o", out, "--clusters", 400) == 2
    assert "400 clusters need at least as many frames" in capsys.readouterr().err
    for path in recordings[1:6]:
        shutil.copy(path, inputs)
    assert label(inputs, "-o", out, "--clusters", 400) == 0
    assert len(rows_of(out / "labels.jsonl")) == 6
    capsys.readouterr()
    assert label(inputs, "-o", out, "--clusters", 400) == 0
    assert "the centroids in" in capsys.readouterr().err
    assert label(inputs, "-o", out, "--clusters", 400, "--seed", 3) == 2
    assert "was learnt with --seed 0, but --seed is 3: --overwrite begins anew" in capsys.readouterr().err


@pytest.mark.parametrize("step", LABEL_STEPS)
def test_label_that_begins_anew_continues_without_overwrite(step, tmp_path, capsys):
    recordings = [recording.path for recording in demo.recordings()[:6]]
    out, new = tmp_path / "out", tmp_path / "new"
    assert label(*recordings, "-o", out, "--clusters", 10, "--keep-sample") == 0
    assert label(*recordings, "-o", out, "--clusters", 10, "--format", "km") == 0
    command = [*recordings, "-o", out, "--clusters", 12, "--seed", 5, "--ordered"]
    code = (
        "import os, sys; from hubert_fast.cli import main; from hubert_fast.units import label_command as steps; "
        f"steps.{step} = lambda options: os._exit(9); sys.exit(main(sys.argv[1:]))"
    )
    arguments = [sys.executable, "-c", code, "label", *map(str, command), "--layer", str(LAYER), *FLOAT32, "--overwrite"]
    assert subprocess.run(arguments, timeout=300).returncode == 9
    assert label(*command) == 0
    assert label(*recordings, "-o", new, "--clusters", 12, "--seed", 5, "--ordered") == 0
    assert (out / "labels.jsonl").read_text() == (new / "labels.jsonl").read_text()
    assert {path.name for path in out.iterdir()} == {path.name for path in new.iterdir()}


def test_labels_in_parquet(tmp_path):
    assert label(demo.recordings()[0].path, "-o", tmp_path / "out", "--clusters", 5, "--format", "parquet") == 0
    assert parquet.read_table(tmp_path / "out" / "labels").num_rows == 1


def test_the_file_of_centroids_is_not_overwritten(kmeans, tmp_path, capsys):
    before = kmeans.read_bytes()
    recording = demo.recordings()[0].path
    assert units(recording, "--kmeans", kmeans, "-o", kmeans, "--format", "jsonl", "--overwrite") == 2
    assert "is the file of centroids, and would be overwritten" in capsys.readouterr().err
    assert kmeans.read_bytes() == before


def test_outputs_of_kmeans(tmp_path, capsys):
    frames, folder, target, link = (tmp_path / name for name in ("frames.npy", "folder", "target", "link"))
    np.save(frames, np.random.default_rng(0).standard_normal((500, 8), np.float32))
    command = ["kmeans", str(frames), "--clusters", "5", "--overwrite", "-o"]
    folder.mkdir()
    assert main([*command, str(folder)]) == 2 and "is a folder: name a file for the centroids" in capsys.readouterr().err
    target.write_text("old")
    link.symlink_to(target)
    assert main([*command, str(link)]) == 0
    assert link.is_symlink() and Centroids.load(target).clusters == 5
    assert main(["kmeans", str(frames), f"{tmp_path}/./frames.npy", "-o", str(tmp_path / "km")]) == 2
    assert "is named twice, and its frames would count twice" in capsys.readouterr().err


def test_centroids_find_their_model_from_another_folder(tmp_path, capsys, monkeypatch):
    recording, km = demo.recordings()[0].path, tmp_path / "km.safetensors"
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(demo.MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("recordings", "__pycache__"))
    monkeypatch.chdir(tmp_path)
    assert features(recording, "--layer", LAYER, "--model", "model", "-o", "out") == 0
    assert main(["kmeans", "out", "-o", str(km), "--clusters", "5"]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert units(recording, "--kmeans", km) == 0
    centroids = Centroids.load(km)
    Centroids(centroids.values, replace(centroids.source, model="")).save(km)
    capsys.readouterr()
    assert units(recording, "--kmeans", km) == 2
    assert "does not name the model of its centroids: name it with --model" in capsys.readouterr().err
    assert units(recording, "--kmeans", km, "--model", tmp_path / "model") == 0


def test_a_link_to_a_missing_folder(tmp_path, capsys):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert features(demo.recordings()[0].path, "--layer", LAYER, "-o", tmp_path / "link") == 2
    assert f"link is a link to {tmp_path / 'gone'}, which does not exist: create that folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("-", "stdin"),
        ("a/train.tsv", "train"),
        ("zip://talk.wav::a.zip", "talk"),
        ("zip://::b/a.zip", "a"),
        ("speech/", "speech"),
    ],
)
def test_names_of_fairseqs_files(source, name):
    assert _name_of(source) == name


def test_a_random_sample_of_shards_takes_shards_in_a_random_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recordings = demo.recordings()
    for number in range(6):
        with tarfile.open(f"{number}.tar", "w") as archive:
            for recording in recordings[2 * number : 2 * number + 2]:
                archive.add(recording.path, recording.path.name)

    def order(seed: int, *sources: str) -> list[str]:
        inputs = SampledInputs(sources)
        inputs.seed = seed
        return [utterance.id.rpartition("::")[2] for utterance in inputs]

    first = order(0, "{0..5}.tar")
    assert first == order(0, *(f"{number}.tar" for number in reversed(range(6)))) != order(1, "{0..5}.tar")
    assert first[::2] == first[1::2] and sorted(first[::2]) == [f"{number}.tar" for number in range(6)]
    with pytest.raises(ValueError, match="either from shards or from files"):
        order(0, "0.tar", str(recordings[0].path))
    Path("both").mkdir()
    shutil.copy(recordings[0].path, "both")
    shutil.copy("0.tar", "both")
    assert order(0, "both") == [utterance.id for utterance in Inputs(["both"])] == [f"both/{recordings[0].path.name}"]
    command = ["features", "{0..5}.tar", "--layer", "1", "-o", "out", "--sample-frames", "200", "--device", "cpu", "--quiet"]
    assert main(command) == 0
    rows = [json.loads(line) for line in Path("out/index.jsonl").read_text().splitlines()]
    assert sum(row["frames"] for row in rows) >= 200 and {row["audio"].rpartition("::")[2] for row in rows} <= {*first[:4]}

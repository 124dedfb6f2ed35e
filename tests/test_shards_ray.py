"""Shards on a Ray cluster: actors read and write, and whatever is killed, each row is there once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import wait_until

from hubert_fast import demo
from hubert_fast.cli import main
from hubert_fast.jobs.ray_engine import Cluster
from hubert_fast.jobs.shards import on_ray
from hubert_fast.jobs.shards.engine import ShardWork
from hubert_fast.jobs.shards.finding import Found
from hubert_fast.jobs.shards.on_ray import RayShards
from hubert_fast.transcribe import Options
from hubert_fast.transcribe.formats import FORMATS

ray = pytest.importorskip("ray", reason="Ray is an optional dependency: pip install 'hubert_fast[ray]'")
pytest.importorskip("ray.data", reason="Ray Data needs pyarrow and pandas")

SHARDS, CLIPS = 6, 4
OPTIONS = ["--device", "cpu", "--dtype", "float32", "--quiet"]
# The actor of each process is killed when it is about to write its second shard, but only one actor in a run is. The actors of
# the shard KILLING are killed each time.
KILLED = """
import os, sys

def install():
    from hubert_fast.jobs.shards import engine

    finish, mark, count = engine.Part.finish, os.environ["KILLED_MARK"], 0

    def killed(self, storage, stamp):
        nonlocal count
        count += 1
        if self.shard.name == os.environ.get("KILLING"):
            os.kill(os.getpid(), 9)
        if count == 2 and "KILLING" not in os.environ:
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), 9)
        return finish(self, storage, stamp)

    engine.Part.finish = killed
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Return a folder with shards, and their rows in one process."""
    folder = tmp_path_factory.mktemp("archive")
    every = [each.path for each in demo.recordings()]
    for number in range(SHARDS):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for index in range(CLIPS):
                path = every[(number * CLIPS + index) % len(every)]
                tar.add(path, f"{index}{path.suffix}")
    pattern = f"{folder}/{{0..{SHARDS - 1}}}.tar"
    assert main(["transcribe", pattern, "-o", str(folder / "local"), "--per-shard", *OPTIONS]) == 0
    return folder


def rows(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("[!_]*.jsonl")}


def command(archive: Path, out: Path, *options: str) -> list[str]:
    pattern = f"{archive}/{{0..{SHARDS - 1}}}.tar"
    return ["transcribe", pattern, "-o", str(out), "--per-shard", "--engine", "ray", "--threads", "1", *OPTIONS, *options]


@pytest.fixture(autouse=True)
def disconnected():
    """Leave the cluster that a command in this process has started."""
    yield
    ray.shutdown()


@pytest.fixture
def cluster(tmp_path, request):
    """Start a local Ray cluster with two CPUs, in which one actor is killed in the middle of a run, or those of a shard are."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "killing.py").write_text(KILLED)
    paths = [str(site), *(path for path in sys.path if path)]
    variables = {"PYTHONPATH": os.pathsep.join(paths), "KILLED_MARK": str(tmp_path / "killed"), "TRITON_INTERPRET": "0"}
    variables |= getattr(request, "param", {})
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": variables, "worker_process_setup_hook": "killing.install"},
    )
    yield
    ray.shutdown()


def test_an_actor_that_is_killed_loses_and_duplicates_nothing(cluster, archive, tmp_path):
    out = tmp_path / "out"
    assert main(command(archive, out, "--actors", "1,2", "--readers", "2")) == 0
    assert (tmp_path / "killed").exists()
    assert rows(out) == rows(archive / "local")
    summary = json.loads((out / "_summary.json").read_text())
    assert (summary["transcribed"], summary["failed"], summary["complete"]) == (SHARDS * CLIPS, 0, True)
    assert summary["shards"]["done_this_run"] == SHARDS
    shutil.rmtree(out / "_shards")  # as if all had been killed before the entries
    assert main(command(archive, out, "--actors", "1")) == 0 and rows(out) == rows(archive / "local")
    assert main(command(archive, out)) == 0
    assert json.loads((out / "_summary.json").read_text())["shards"]["already_done"] == SHARDS


@pytest.mark.parametrize("cluster", [{"KILLING": "3"}], indirect=True)
def test_a_shard_whose_actors_keep_dying_fails_alone(cluster, archive, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(on_ray, "MOST_RETRIES_OF_SHARDS", 1)
    monkeypatch.setattr(on_ray, "MOST_RETRIES", 0)
    out = tmp_path / "out"
    assert main(command(archive, out, "--actors", "1", "--readers", "1")) == 1
    assert rows(out) == {name: text for name, text in rows(archive / "local").items() if name != "3.jsonl"}
    (error,) = json.loads((out / "_summary.json").read_text())["shards"]["errors"]
    assert error.startswith(f"{archive}/3.tar: the process that worked on it died each time")
    output = "".join(capfd.readouterr())
    assert "Traceback" not in output and "Dataset" not in output and "rogress bars" not in output


def test_an_actor_that_cannot_load_its_model_ends_the_run_with_the_reason(tmp_path):
    def load():
        raise OSError("no model on this node")

    work = ShardWork(str(tmp_path), "jsonl", FORMATS["jsonl"], Options(ordered=True))
    shards = RayShards(load, "cpu", work, Cluster(actors=(1, 1), threads=1))
    with pytest.raises(RuntimeError, match=r"^Ray: The actor died .*: OSError: no model on this node$"):
        list(shards.results([Found("0.tar", "0")]))


def test_a_driver_that_is_killed_loses_and_duplicates_nothing(archive, tmp_path):
    out = tmp_path / "out"
    arguments = command(archive, out, "--actors", "1", "--readers", "1")
    process = subprocess.Popen([sys.executable, "-m", "hubert_fast", *arguments], start_new_session=True)
    wait_until(lambda: len([*out.glob("_shards/*.json")]) >= 2, 240)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = len([*out.glob("_shards/*.json")])
    assert finished >= 2
    assert main(command(archive, out)[: -len(OPTIONS)] + OPTIONS) == 0
    assert rows(out) == rows(archive / "local")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "[::1]:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379", "localhost:99999"]
)
def test_an_address_without_a_cluster_is_reported_at_once(archive, tmp_path, capsys, address):
    assert main(command(archive, tmp_path / "out", "--address", address)) == 2
    assert f"cannot connect to a Ray cluster: nothing answers at {address}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, text, message",
    [
        ("--actors", "0", "expected a number of actors such as 4"),
        ("--actors", "4,2", "the least and most such as 1,8, but got '4,2'"),
        ("--gpus-per-actor", "1.5", "expected a share of a GPU such as 0.5"),
    ],
)
def test_wrong_options_are_refused(capsys, option, text, message):
    with pytest.raises(SystemExit):
        main(["transcribe", "a.tar", "-o", "out", option, text])
    assert message in capsys.readouterr().err

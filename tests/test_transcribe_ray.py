"""Test Ray Data as the engine: the same results, each written once, even if an actor dies."""

import json
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch

from hubert_fast import cpus, demo
from hubert_fast.cli import main
from hubert_fast.transcribe import Options, Transcriber, Utterance
from hubert_fast.units import Centroids, Encoder

ray = pytest.importorskip("ray", reason="Ray is an optional dependency: pip install 'hubert_fast[ray]'")
pytest.importorskip("ray.data", reason="Ray Data needs pyarrow and pandas")

from hubert_fast.jobs import ray_engine  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    """Start a local Ray cluster with two CPUs."""
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TRITON_INTERPRET": "0"}
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": environment}
    )
    yield
    ray.shutdown()


def _actors() -> list[int]:
    """Return the processes of actors in the cluster that this process started, whatever else runs on the machine."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def is_ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [int(pid) for pid, _, command in rows if "ray::" in command and "MapWorker" in command and is_ours(int(pid))]


def test_a_killed_actor_loses_and_duplicates_nothing(cluster, monkeypatch):
    monkeypatch.setattr(ray_engine, "BLOCK_UTTERANCES", 4)
    transcriber = Transcriber.from_pretrained(demo.MODEL, device="cpu", dtype="float32")
    expected = {str(path): transcriber.transcribe_file(path).text for path in (each.path for each in demo.recordings())}
    paths = [str(each.path) for each in demo.recordings()] * 8
    utterances = [Utterance(str(index), path) for index, path in enumerate(paths)]
    load = partial(Transcriber.from_pretrained, str(demo.MODEL), device="cpu", dtype="float32")
    run = ray_engine.RayRun(load, "cpu", utterances, Options(), ray_engine.Cluster(actors=(2, 2), threads=1))
    results = []
    for result in run.results():
        results.append(result)
        if len(results) == 8:
            actors = _actors()
            assert len(actors) == 2, f"expected two actors: {actors}"
            os.kill(actors[0], signal.SIGKILL)
    assert sorted(int(result.utterance.id) for result in results) == list(range(len(paths)))
    assert all(result.error is None and result.transcripts[0].text == expected[result.utterance.audio] for result in results)


def test_units_on_ray_are_those_of_one_machine(cluster, tmp_path):
    encoder = Encoder.from_pretrained(demo.MODEL, layers=[2], device="cpu", dtype="float32")
    frames = encoder.encode_file(demo.recordings()[0].path).frames[2]
    Centroids(frames[::10].copy(), encoder.sources[0]).save(tmp_path / "km.safetensors")
    command = ["units", str(demo.RECORDINGS), "--kmeans", str(tmp_path / "km.safetensors"), "--device", "cpu", "--quiet"]
    for engine in ("local", "ray"):
        out = str(tmp_path / f"{engine}.jsonl")
        options = ["--dtype", "float32", "--ray-actors", "1", "--threads", "1"] if engine == "ray" else ["--dtype", "float32"]
        assert main([*command, "--engine", engine, "-o", out, *options]) == 0
    rows = {engine: sorted((tmp_path / f"{engine}.jsonl").read_text().splitlines()) for engine in ("local", "ray")}
    assert rows["local"] == rows["ray"] and len(rows["ray"]) == 14


def test_the_command_gives_the_same_results_on_ray(cluster, tmp_path, capsys):
    local, out = tmp_path / "local.jsonl", tmp_path / "ray.jsonl"
    common = ["--device", "cpu", "--dtype", "float32"]
    (tmp_path / "bad.wav").write_text("no")
    inputs = ["transcribe", str(demo.RECORDINGS), str(tmp_path / "bad.wav")]
    assert main([*inputs, "-o", str(local), *common]) == 1
    command = [*inputs, "-o", str(out), *common, "--engine", "ray", "--ray-actors", "2", "--ordered"]
    assert main(command) == 1
    rows = [
        {row["id"]: (row["text"], row["words"][0]["word"]) for row in map(json.loads, each.read_text().splitlines())}
        for each in (local, out)
    ]
    assert rows[0] == rows[1] and [*rows[1]] == sorted(rows[1])
    assert "not audio" in json.loads((tmp_path / "ray.jsonl.errors.jsonl").read_text())["error"]
    before = out.read_bytes()
    assert main(command) == 1 and out.read_bytes() == before and "15 inputs were already done" in capsys.readouterr().err


@pytest.mark.parametrize(("threads", "cores", "actors"), [(None, 2, 1), (1, 1, 2), (2, 2, 1), (64, 2, 1)])
def test_actors_fit_the_nodes(cluster, threads, cores, actors):
    """An actor that needs more cores than any node has would never start."""
    resources = ray_engine.resources(ray_engine.Cluster(threads=threads), "cpu", blocks=10)
    assert resources["num_cpus"] == cores
    assert (resources["compute"].min_size, resources["compute"].max_size) == (actors, actors)


@pytest.mark.parametrize(("threads", "expected"), [(1, 1), (3, 3), (None, 2)])
def test_an_actor_computes_with_the_threads_of_the_cluster(two_threads, monkeypatch, threads, expected):
    monkeypatch.setattr(cpus, "available", lambda: 8)
    torch.set_num_threads(2)
    ray_engine.Worker(partial(Transcriber.from_pretrained, demo.MODEL, device="cpu", dtype="float32"), Options(), threads)
    assert torch.get_num_threads() == expected


def test_the_error_without_ray_names_the_package_to_install(capsys, monkeypatch):
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    assert main(["transcribe", str(demo.RECORDINGS), "--engine", "ray"]) == 2
    assert "Ray is not installed: pip install 'hubert_fast[ray]'" in capsys.readouterr().err

"""Test how many CPUs a process may use: quotas of control groups in all the layouts that machines and containers have."""

import json
import os
import subprocess
import sys

import pytest
import torch

from hubert_fast import cpus, demo
from hubert_fast.__main__ import SPIN_COUNT, WAIT_VARIABLES
from hubert_fast.cli import main
from hubert_fast.jobs.lanes import Lane
from hubert_fast.packed.memory import available_bytes

V1, V2 = "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"
MOUNT_V1 = f"32 31 0:29 / {V1} rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
MOUNT_V2 = f"30 23 0:26 / {V2} rw,nosuid,nodev - cgroup2 cgroup2 rw,nsdelegate"
MOUNT_OTHERS = """\
23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd"""


def tree(root, groups, mounts, files):
    """Lay out `/proc/self/cgroup`, `/proc/self/mountinfo` and the files of control groups below `root`."""
    for name, text in {"/proc/self/cgroup": groups, "/proc/self/mountinfo": mounts, **files}.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def v1(folder, quota_us, period_us=100_000):
    return {f"{folder}/cpu.cfs_quota_us": quota_us, f"{folder}/cpu.cfs_period_us": period_us}


LAYOUTS = {
    "v2": ("0::/job", MOUNT_V2, {f"{V2}/job/cpu.max": "150000 100000"}, 1.5),
    "v2, another period": ("0::/job", MOUNT_V2, {f"{V2}/job/cpu.max": "12500 50000"}, 0.25),
    "v2, no quota": ("0::/job", MOUNT_V2, {f"{V2}/job/cpu.max": "max 100000"}, None),
    "v2, no cpu controller": ("0::/job", MOUNT_V2, {f"{V2}/job/pids.max": "max"}, None),
    "v2, nested, the middle is smallest": (
        "0::/a.slice/b.slice/job",
        MOUNT_V2,
        {
            f"{V2}/a.slice/cpu.max": "400000 100000",
            f"{V2}/a.slice/b.slice/cpu.max": "200000 100000",
            f"{V2}/a.slice/b.slice/job/cpu.max": "max 100000",
            f"{V2}/a.slice/sibling/cpu.max": "100000 100000",
        },
        2.0,
    ),
    "v2, container with a namespace": ("0::/", MOUNT_V2, {f"{V2}/cpu.max": "250000 100000"}, 2.5),
    "v2, container without a namespace": (
        "0::/system.slice/docker-4f.scope",
        MOUNT_V2.replace(" / /sys", " /system.slice/docker-4f.scope /sys"),
        {f"{V2}/cpu.max": "300000 100000"},
        3.0,
    ),
    "v2, the group is outside the namespace": ("0::/../../other", MOUNT_V2, {f"{V2}/cpu.max": "100000 100000"}, 1.0),
    "v2, the mounted group is outside the namespace": (
        "0::/job",
        MOUNT_V2.replace(" / /sys", " /../.. /sys"),
        {f"{V2}/cpu.max": "100000 100000"},
        1.0,
    ),
    "v2, the group has been removed": ("0::/a/b (deleted)", MOUNT_V2, {f"{V2}/a/cpu.max": "100000 100000"}, 1.0),
    "v2, the mount point has a space": (
        "0::/a job",
        r"30 23 0:26 / /my\040groups rw - cgroup2 none rw",
        {"/my groups/a job/cpu.max": "100000 100000"},
        1.0,
    ),
    "v1": ("4:memory:/m\n3:cpu,cpuacct:/job", MOUNT_V1, v1(f"{V1}/job", 150_000), 1.5),
    "v1, no quota": ("3:cpu,cpuacct:/job", MOUNT_V1, v1(f"{V1}/job", -1), None),
    "v1, the parent is smaller": ("3:cpu,cpuacct:/a/b", MOUNT_V1, v1(f"{V1}/a", 50_000) | v1(f"{V1}/a/b", 200_000), 0.5),
    "v1, container": (
        "3:cpu,cpuacct:/docker/4f",
        MOUNT_V1.replace(" / /sys", " /docker/4f /sys"),
        v1(V1, 200_000),
        2.0,
    ),
    "v1, group of its own in a container": (
        "3:cpu,cpuacct:/docker/4f/job",
        MOUNT_V1.replace(" / /sys", " /docker/4f /sys"),
        v1(V1, 200_000) | v1(f"{V1}/job", 100_000),
        1.0,
    ),
    "v1, container in a container": (
        "3:cpu,cpuacct:/docker/inner",
        MOUNT_V1.replace(" / /sys", " /kubepods/outer/docker/inner /sys"),
        v1(V1, 200_000),
        2.0,
    ),
    "v1, a name that only begins like the mounted one": (
        "3:cpu,cpuacct:/docker/4f5",
        MOUNT_V1.replace(" / /sys", " /docker/4f /sys"),
        v1(V1, 200_000) | v1(f"{V1}/5", 100_000),
        2.0,
    ),
    "v1, another controller is named cpuset": ("3:cpuset:/job", MOUNT_OTHERS, v1("/sys/fs/cgroup/cpuset/job", 100_000), None),
    "both, v1 has the controller": (
        "2:cpu,cpuacct:/job\n0::/job",
        f"{MOUNT_V1}\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
        v1(f"{V1}/job", 300_000),
        3.0,
    ),
    "malformed v2": ("0::/a/b", MOUNT_V2, {f"{V2}/a/b/cpu.max": "lots", f"{V2}/a/cpu.max": "200000 100000"}, 2.0),
    "empty v2": ("0::/job", MOUNT_V2, {f"{V2}/job/cpu.max": ""}, None),
    "v2, period 0": ("0::/job", MOUNT_V2, {f"{V2}/job/cpu.max": "100000 0"}, None),
    "v1, no period": ("3:cpu,cpuacct:/job", MOUNT_V1, {f"{V1}/job/cpu.cfs_quota_us": 100_000}, None),
    "malformed lines": (
        "nonsense\n\n0\n7:\n0::/job",
        f"nonsense\n - \n1 2 - cgroup2\n - cgroup2 cgroup2 rw\n{MOUNT_V2}",
        {f"{V2}/job/cpu.max": "100000 100000"},
        1.0,
    ),
    "no mounts": ("0::/job", "", {f"{V2}/job/cpu.max": "100000 100000"}, None),
}


@pytest.mark.parametrize(("groups", "mounts", "files", "expected"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_smallest_quota_counts(tmp_path, groups, mounts, files, expected):
    assert cpus.quota(tree(tmp_path, groups, f"{MOUNT_OTHERS}\n{mounts}", files)) == expected


def test_without_proc_there_is_no_quota(tmp_path):
    assert cpus.quota(tmp_path) is None


def test_bytes_that_are_not_utf8_are_harmless(tmp_path):
    tree(tmp_path, "", MOUNT_V2, {})
    (tmp_path / "proc/self/cgroup").write_bytes(b"0::/a\xff/b\n")
    group = tmp_path / V2.lstrip("/") / os.fsdecode(b"a\xff") / "b"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("100000 100000\n")
    assert cpus.quota(tmp_path) == 1.0


@pytest.mark.parametrize(
    ("affinity", "limit", "expected"),
    [(8, None, 8), (8, 1.5, 2), (8, 2.0, 2), (8, 0.1, 1), (2, 6.5, 2), (1, None, 1)],
)
def test_available_cpus_are_limited_by_affinity_and_quota(monkeypatch, affinity, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)), raising=False)
    monkeypatch.setattr(cpus, "current_quota", lambda: limit)
    assert cpus.available() == expected


def test_without_an_affinity_mask_all_cpus_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(cpus, "current_quota", lambda: None)
    assert cpus.available() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.available() == 1


@pytest.mark.parametrize(
    ("available", "of_torch", "requested", "expected"),
    [(64, 32, None, 32), (2, 32, None, 2), (2, 32, 1, 1), (2, 2, 5, 5), (2, 2, cpus.MOST_THREADS, cpus.MOST_THREADS)],
)
def test_threads_default_to_the_smaller_number_and_a_request_is_obeyed(monkeypatch, available, of_torch, requested, expected):
    monkeypatch.setattr(cpus, "available", lambda: available)
    monkeypatch.setattr(torch, "get_num_threads", lambda: of_torch)
    assert cpus.thread_count(requested) == expected


RECORDING = str(demo.RECORDINGS / "fan.flac")


@pytest.mark.parametrize("command", [["transcribe", RECORDING], ["bench"], ["demo"]], ids=lambda command: command[0])
@pytest.mark.parametrize("number", ["0", "-1", "1025", "99999999999999999999"])
def test_wrong_numbers_of_threads_are_refused(capsys, command, number):
    assert main([*command, "--threads", number]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == f"hubert-fast: threads must be an integer from 1 to 1024, but is {number}\n"


@pytest.mark.parametrize("number", ["1.5", "two", ""])
def test_threads_that_are_no_integer_are_a_usage_error(capsys, number):
    with pytest.raises(SystemExit) as stop:
        main(["transcribe", RECORDING, "--threads", number])
    assert stop.value.code == 2 and f"argument --threads: invalid int value: '{number}'" in capsys.readouterr().err


@pytest.fixture
def threads_of_batches(monkeypatch):
    """Record how many threads PyTorch has while each batch runs on a lane, and the number of lanes."""
    seen = []
    real = Lane._filler

    def filler(self, lengths, frames):  # called after the lane has set its threads
        seen.append((torch.get_num_threads(), self.all_threads))
        return real(self, lengths, frames)

    monkeypatch.setattr(Lane, "_filler", filler)
    return seen


def test_the_command_computes_with_the_threads_of_its_options(two_threads, threads_of_batches, tmp_path, capsys):
    out, again = tmp_path / "out.jsonl", tmp_path / "again.jsonl"
    command = ["transcribe", str(demo.RECORDINGS), "--device", "cpu", "--dtype", "float32", "--ordered"]
    assert main([*command, "-o", str(out), "--threads", "2"]) == 0
    assert threads_of_batches and {total for _, total in threads_of_batches} == {2} and torch.get_num_threads() == 2
    threads_of_batches.clear()
    assert main([*command, "-o", str(again), "--threads", "1"]) == 0
    assert threads_of_batches and set(threads_of_batches) == {(1, 1)} and torch.get_num_threads() == 2
    rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in (out, again)]
    assert len(rows[0]) == 14
    for row, other in zip(*rows, strict=True):
        assert (row["id"], row["text"]) == (other["id"], other["text"])
        assert other["confidence"] == pytest.approx(row["confidence"], abs=1e-3)
    capsys.readouterr()
    before = out.read_bytes()
    assert main([*command, "-o", str(out), "--threads", "1"]) == 0  # threads do not determine the texts: the run is continued
    assert "14 inputs were already done" in capsys.readouterr().err and out.read_bytes() == before


def test_the_default_is_the_quota(two_threads, threads_of_batches, monkeypatch, capsys):
    monkeypatch.setattr(cpus, "current_quota", lambda: 0.5)
    assert main(["transcribe", RECORDING, "--device", "cpu"]) == 0
    assert set(threads_of_batches) == {(1, 1)} and torch.get_num_threads() == 2
    capsys.readouterr()
    assert main(["info"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cpu ")]
    assert ", 1 usable, a quota of 0.5, 1 threads, " in row


def test_a_failed_command_restores_the_threads(two_threads, capsys):
    assert main(["transcribe", RECORDING, "--threads", "1", "--device", "toaster"]) == 2
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the variables are those of GNU's OpenMP library")
@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, str(SPIN_COUNT)),
        ({"GOMP_SPINCOUNT": "77"}, "77"),
        ({"OMP_WAIT_POLICY": "passive"}, "0"),
        ({"OMP_WAIT_POLICY": "active"}, "30000000000"),
    ],
    ids=str,
)
def test_waiting_threads_of_a_command_sleep_soon_unless_the_user_decides(chosen, expected):
    environment = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
    environment |= {"OMP_DISPLAY_ENV": "verbose", **chosen}
    command = [sys.executable, "-m", "hubert_fast", "info"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0 and f"GOMP_SPINCOUNT = '{expected}'" in run.stderr, run.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the variables are those of GNU's OpenMP library")
def test_a_benchmark_leaves_waiting_threads_as_pytorch_does():
    environment = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
    command = [sys.executable, "-m", "hubert_fast", "bench", "--rounds", "0"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment | {"OMP_DISPLAY_ENV": "verbose"})
    assert "--rounds must be above 0" in run.stderr and "GOMP_SPINCOUNT = '300000'" in run.stderr, run.stderr


def test_importing_the_package_changes_no_threads():
    code = "import torch; torch.set_num_threads(3); import hubert_fast.transcribe, hubert_fast.commands; "
    code += "print(torch.get_num_threads())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "3\n", run.stderr


MEMINFO = "MemTotal:       24000 kB\nMemFree:  1 kB\nMemAvailable:    9000 kB"
MOUNT_MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


def memory_v1(folder, limit, usage):
    return {f"{folder}/memory.limit_in_bytes": limit, f"{folder}/memory.usage_in_bytes": usage}


MEMORY = {
    "no group": ("", "", {}, 9000 * 1024),
    "v2, no limit": ("0::/job", MOUNT_V2, {f"{V2}/job/memory.max": "max", f"{V2}/job/memory.current": 1}, 9000 * 1024),
    "v2, limit of a parent": (
        "0::/a/b",
        MOUNT_V2,
        {
            f"{V2}/a/b/memory.max": "max",
            f"{V2}/a/b/memory.current": 1000,
            f"{V2}/a/memory.max": 5000,
            f"{V2}/a/memory.current": 2000,
        },
        3000,
    ),
    "v2, above its limit": ("0::/", MOUNT_V2, {f"{V2}/memory.max": 5000, f"{V2}/memory.current": 6000}, 0),
    "v1, container": (
        "4:cpu,cpuacct:/x\n3:memory:/docker/1",
        MOUNT_MEMORY.replace(" / /sys", " /docker/1 /sys"),
        memory_v1("/sys/fs/cgroup/memory", 7000, 6500),
        500,
    ),
    "v1, no limit": ("3:memory:/", MOUNT_MEMORY, memory_v1("/sys/fs/cgroup/memory", 9223372036854771712, 6500), 9000 * 1024),
}


@pytest.mark.parametrize("groups, mounts, files, expected", MEMORY.values(), ids=MEMORY)
def test_available_memory(tmp_path, groups, mounts, files, expected):
    root = tree(tmp_path, groups, f"{MOUNT_OTHERS}\n{mounts}", {"/proc/meminfo": MEMINFO, **files})
    assert available_bytes(root) == expected


def test_available_memory_that_is_unknown(tmp_path):
    assert available_bytes(tmp_path) is None
    assert available_bytes(tree(tmp_path, "", "", {"/proc/meminfo": "MemFree: 3 kB"})) is None
    available = available_bytes()
    assert available is None or 0 < available < 1 << 50

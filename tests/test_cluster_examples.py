"""Test the jobs for clusters in examples/: the commands they run, and what they do when Slurm stops them.

Programs in place of srun, scontrol, ray and hubert-fast write down how they are called.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hubert_fast
from hubert_fast.cli import _parser

FOLDER = Path(hubert_fast.__file__).parent.parent / "examples"
SCRIPTS = ["slurm_array", "slurm_shards"]
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="examples/ is not beside the package under test")

STAND_IN = """#!{python}
import json, os, pathlib, signal, sys
name, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
log = pathlib.Path({log!r})
with log.open("a") as file:
    file.write(json.dumps([name, *arguments]) + "\\n")
def wait_for_nodes(count):
    while log.read_text().count('["ray", "start"') < count:
        os.sched_yield()
if name == "scontrol" and arguments[:2] == ["show", "hostnames"]:
    print("n1", "n2", "n3", sep="\\n")
if name == "srun":
    command = next(index for index, argument in enumerate(arguments) if not argument.startswith("-"))
    os.execvp(arguments[command], arguments[command:])
if name == "ray" and arguments[0] == "status":
    wait_for_nodes(1)
if name == "hubert-fast":
    wait_for_nodes(int(os.environ["NODES"]))
    if os.environ["STATUS"] == "waits":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        print(os.getpid(), flush=True)
        signal.pause()
    sys.exit(int(os.environ["STATUS"]))
"""


@pytest.fixture
def slurm(tmp_path):
    """Return a function that starts a script as Slurm does, and one that returns the calls of each program."""
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    log.touch()
    for name in ("srun", "scontrol", "ray", "hubert-fast"):
        (programs / name).write_text(STAND_IN.format(python=sys.executable, log=str(log)))
        (programs / name).chmod(0o755)
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "71234",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_ARRAY_TASK_COUNT": "16",
    }

    def start(script: str, status: str) -> subprocess.Popen:
        environment = os.environ | variables | {"STATUS": status, "NODES": "0" if script == "slurm_array" else "3"}
        command = ["bash", str(FOLDER / f"{script}.sh")]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def calls(name: str) -> list[list[str]]:
        lines = map(json.loads, log.read_text().splitlines())
        return [arguments for program, *arguments in lines if program == name]

    return start, calls


def options_of(arguments: list[str]) -> dict:
    """Return the options that the command line parses from the arguments of `hubert-fast`."""
    return vars(_parser().parse_args(arguments))


EXPECTED = {
    "command": "transcribe",
    "inputs": ["s3://BUCKET/shards/{000000..000127}.tar"],
    "output": "s3://BUCKET/transcripts/",
    "format": "parquet",
    "per_shard": True,
    "model": "facebook/hubert-large-ls960-ft",
}


def assert_contains(options: dict, expected: dict) -> None:
    assert {name: options.get(name) for name in expected} == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_bash(script):
    process = subprocess.run(["bash", "-n", str(FOLDER / f"{script}.sh")], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")


def test_each_task_of_an_array_has_its_part_of_the_shards(slurm):
    start, calls = slurm
    process = start("slurm_array", "0")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    (arguments,) = calls("hubert-fast")
    assert_contains(options_of(arguments), EXPECTED | {"shard": "3/16", "device": "cuda"})
    assert calls("scontrol") == [] and calls("ray") == []


def test_a_ray_cluster_spans_the_nodes(slurm):
    start, calls = slurm
    process = start("slurm_shards", "0")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    (arguments,) = calls("hubert-fast")
    expected = {"engine": "ray", "ray_address": "n1:21234"}
    assert_contains(options_of(arguments), EXPECTED | expected)
    assert arguments[arguments.index("--actors") + 1] == "1,8"
    nodes = {call[2]: call[3:] for call in calls("srun")}
    worker = ["ray", "start", "--address=n1:21234", "--block"]
    head = ["ray", "start", "--head", "--port=21234", "--block"]
    assert nodes == {"--nodelist=n1": head, "--nodelist=n2": worker, "--nodelist=n3": worker}
    assert calls("scontrol") == [["show", "hostnames", "n[1-3]"]]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("status", "requeued"), [("143", True), ("2", False)])
def test_a_job_that_was_terminated_is_queued_again(slurm, script, status, requeued):
    start, calls = slurm
    process = start(script, status)
    process.communicate(timeout=60)
    assert process.returncode == int(status)
    assert (["requeue", "71234"] in calls("scontrol")) == requeued


def test_sigterm_is_passed_on_and_waited_for(slurm):
    start, calls = slurm
    process = start("slurm_shards", "waits")
    assert int(process.stdout.readline()) != process.pid
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143 and calls("scontrol")[-1] == ["requeue", "71234"]


def test_the_step_of_an_array_task_is_waited_for_after_a_sigterm(slurm):
    """Slurm signals the step, and when it cancels the job also the script, which must still see the exit status."""
    start, calls = slurm
    process = start("slurm_array", "waits")
    step = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    os.kill(step, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143 and calls("scontrol") == [["requeue", "71234"]]


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("slurm_array", {"--array": "0-15", "--requeue": "", "--signal": "TERM@120"}),
        ("slurm_shards", {"--nodes": "4", "--requeue": "", "--signal": "B:TERM@120", "--no-kill": ""}),
    ],
)
def test_options_of_sbatch(script, options):
    lines = (FOLDER / f"{script}.sh").read_text(encoding="utf-8").splitlines()
    given = dict(line.removeprefix("#SBATCH ").partition("=")[::2] for line in lines if line.startswith("#SBATCH "))
    assert {name: given.get(name) for name in options} == options


@pytest.fixture(scope="module")
def ray_job() -> dict:
    yaml = pytest.importorskip("yaml", reason="reads kuberay.yaml")
    return yaml.safe_load((FOLDER / "kuberay.yaml").read_text(encoding="utf-8"))


def test_the_command_of_the_ray_job(ray_job):
    program, *arguments = shlex.split(ray_job["spec"]["entrypoint"])
    assert program == "hubert-fast"
    assert_contains(options_of(arguments), EXPECTED | {"engine": "ray"})
    assert arguments[arguments.index("--actors") + 1] == "1,8"


def test_the_ray_job_has_the_fields_that_kuberay_requires(ray_job):
    assert (ray_job["apiVersion"], ray_job["kind"]) == ("ray.io/v1", "RayJob")
    assert ray_job["metadata"]["generateName"] == "transcripts-"
    spec = ray_job["spec"]
    # fields of RayJobSpec, RayClusterSpec, HeadGroupSpec and WorkerGroupSpec in ray-operator/apis/ray/v1
    assert spec.keys() == {
        "entrypoint",
        "backoffLimit",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "rayClusterSpec",
    }
    cluster = spec["rayClusterSpec"]
    assert cluster.keys() == {
        "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"
    }  # fmt: skip
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"] == {"idleTimeoutSeconds": 300, "upscalingMode": "Default"}
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head.keys() == {"rayStartParams", "template"}
    assert workers.keys() == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert (workers["minReplicas"], workers["replicas"], workers["maxReplicas"]) == (1, 1, 8)
    for group in (head, workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "rayStartParams are texts"


def test_only_workers_of_the_ray_job_have_gpus_and_run_on_spot_nodes(ray_job):
    cluster = ray_job["spec"]["rayClusterSpec"]
    head, workers = (group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]))
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0" and "tolerations" not in head
    resources = [pod["containers"][0]["resources"] for pod in (head, workers)]
    assert [each["limits"].get("nvidia.com/gpu") for each in resources] == [None, 1]
    assert all(each["limits"] == each["requests"] for each in resources)
    assert {toleration["key"] for toleration in workers["tolerations"]} == {
        "nvidia.com/gpu", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"
    }  # fmt: skip
    for pod in (head, workers):
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "s3"}}] and container["image"] == "REGISTRY/hubert-fast:latest"


def test_the_image_of_the_ray_job_has_its_version_of_ray(ray_job):
    version = ray_job["spec"]["rayClusterSpec"]["rayVersion"]
    text = (FOLDER / "kuberay.yaml").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{version}-" in text

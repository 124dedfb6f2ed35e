"""Use hubert_fast from a wheel, an sdist, an editable install and a bare checkout. Each must find the kernels and the demo.

Everything is built and installed without network and without dependencies: the environment that runs the tests has these.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import hubert_fast

ROOT = Path(hubert_fast.__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the package under test is not a checkout")

CHECK = """
import hubert_fast, importlib.util, pathlib
from hubert_fast import demo
print(pathlib.Path(hubert_fast.__file__).parent)
print(importlib.util.find_spec("hubert_fast.kernels.layer_norm").origin)
import hubert_fast.conversion, hubert_fast.transcribe
assert all(getattr(hubert_fast, name) for name in hubert_fast.__all__)
assert (demo.MODEL / "model.safetensors").is_file() and len(demo.recordings()) >= 8
assert all(recording.path.is_file() for recording in demo.recordings())
"""


def _run(*command, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    environment |= options.pop("environment", {})
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, **options)
    assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
    return run.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Return a copy of the sources, as a clone has them."""
    folder = tmp_path_factory.mktemp("checkout") / "hubert_fast"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "*.so")
    shutil.copytree(ROOT, folder, ignore=ignored)
    return folder


def _environment(folder: Path) -> Path:
    """Create a virtual environment that sees the packages of this one, but not its hubert_fast. Return its Python."""
    _run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    site = _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # Python does not read the .pth files of a folder added by path, and so ignores editable installs there
    Path(site, "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


DECODE = """
import numpy, warnings
from hubert_fast import ctc
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        text = ctc.greedy_decode(numpy.array([0, 2, 2, 0, 2, 1, 3]), [0, 7], ["<pad>", "|", "A", "B"], blank_id=0)[0].text
print(text, *(str(warning.message) for warning in caught), sep="; ")
"""
NO_COMPILER = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}


def _decoded(python, cwd) -> tuple[str, list[str]]:
    text, *messages = _run(python, "-c", DECODE, cwd=cwd).strip().split("; ")
    return text, messages


def _locations(python, cwd, **environment) -> tuple[Path, Path]:
    package, kernel = _run(python, "-c", CHECK, cwd=cwd, environment=environment).split()
    return Path(package), Path(kernel)


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, checkout)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_wheel_installs_and_decodes(wheel, tmp_path):
    names = zipfile.ZipFile(wheel).namelist()
    assert "hubert_fast/kernels/layer_norm.py" in names and "hubert_fast/demo/model.safetensors" in names
    top = {name.split("/")[0] for name in names}
    assert len(top) == 2 and "hubert_fast" in top, f"the wheel puts {top} into site-packages"
    python = _environment(tmp_path / "venv")
    _run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    package, kernel = _locations(python, tmp_path)
    assert package.is_relative_to(tmp_path / "venv") and kernel == package / "kernels" / "layer_norm.py"
    # the command works in any folder
    assert _run(tmp_path / "venv/bin/hubert-fast", "--version", cwd=tmp_path).startswith("hubert_fast ")
    assert "backend triton" in _run(tmp_path / "venv/bin/hubert-fast", "info", cwd=tmp_path)
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("the rest of this test needs a C++ compiler")
    assert _decoded(python, tmp_path) == ("AA B", [])
    assert re.search(r"C\+\+ extension +built", _run(tmp_path / "venv/bin/hubert-fast", "info", cwd=tmp_path))


@pytest.mark.slow
def test_sdist_installs_without_a_compiler(checkout, tmp_path):
    _run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", tmp_path, checkout)
    archive = next(tmp_path.glob("*.tar.gz"))
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"kernels/layer_norm.py", "LICENSE", "hubert_fast/demo/model.safetensors", "tests/conftest.py"} <= names
    assert {"csrc/ctc_collapse.cpp", "csrc/cpu.cpp", "csrc/cpu.h", "csrc/gelu_cpu.h", "csrc/positions_cpu.cpp"} <= names
    assert not [name for name in names if name.endswith(".so")]
    python = _environment(tmp_path / "venv")
    pip_install = (python, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation")
    _run(*pip_install, archive, environment=NO_COMPILER)
    package, kernel = _locations(python, tmp_path)
    assert package.is_relative_to(tmp_path / "venv") and kernel == package / "kernels" / "layer_norm.py"


@pytest.mark.slow
def test_fallback_decodes_and_warns_once_without_a_compiler(checkout, tmp_path):
    """The package installs, the Python fallback decodes and warns once, and `info` says why."""
    python = _environment(tmp_path / "venv")
    pip_install = (python, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation")
    sources = tmp_path / "sources"
    shutil.copytree(
        checkout, sources, ignore=shutil.ignore_patterns("build", "*.so")
    )  # leave out what was compiled for the wheel
    _run(*pip_install, sources, environment=NO_COMPILER)
    text, messages = _decoded(python, tmp_path)
    assert text == "AA B"
    assert len(messages) == 1 and "decodes CTC in Python, many times slower: its C++ extension is not built" in messages[0]
    assert re.search(r"C\+\+ extension +not built", _run(tmp_path / "venv/bin/hubert-fast", "info", cwd=tmp_path))


@pytest.mark.slow
def test_editable_install_uses_the_checkout(checkout, tmp_path):
    python = _environment(tmp_path / "venv")
    pip_install = (python, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation")
    _run(*pip_install, "--editable", checkout, environment=NO_COMPILER)
    package, kernel = _locations(python, tmp_path)
    assert package == checkout / "hubert_fast" and kernel == checkout / "kernels" / "layer_norm.py"


def test_bare_checkout_finds_kernels_and_demo(checkout, tmp_path):
    python = _environment(tmp_path / "venv")
    for cwd, environment in ((checkout, {}), (tmp_path, {"PYTHONPATH": str(checkout)})):
        package, kernel = _locations(python, cwd, **environment)
        assert package == checkout / "hubert_fast" and kernel == checkout / "kernels" / "layer_norm.py"


def test_checkout_does_not_hide_hugging_faces_kernels_package(checkout):
    """It has the same name as our folder: with the checkout on the path, transformers must still find it."""
    if "kernels" not in {name.lower() for name in importlib.metadata.packages_distributions()}:
        pytest.skip("Hugging Face's kernels package is not installed")
    assert not (checkout / "kernels" / "__init__.py").exists()
    code = (
        "import kernels, hubert_fast, hubert_fast.kernels.layer_norm; from transformers import HubertModel; "
        "print(kernels.__file__)"
    )
    origin = _run(sys.executable, "-c", code, cwd=checkout, environment={"PYTHONPATH": str(checkout)}).strip()
    assert Path(origin).is_file() and not Path(origin).is_relative_to(checkout)


def test_import_loads_no_heavy_packages():
    """Without transformers, triton and audio libraries, importing the package is quick."""
    code = (
        "import sys, hubert_fast; "
        "print(sorted({'transformers', 'triton', 'soundfile', 'soxr', 'jiwer', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert _run(sys.executable, "-c", code, cwd=ROOT).strip() == "[]"

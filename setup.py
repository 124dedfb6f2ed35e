"""Build hubert_fast. Packages are listed explicitly, since `kernels/` at the top level is installed as `hubert_fast.kernels`.

It must not become a top-level package `kernels`, since Hugging Face publishes a package of that name.
"""

import re
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "hubert_fast/__init__.py").read_text(), re.MULTILINE).group(1)


def extensions() -> list[Extension]:
    """Return the C++ extensions if pybind11 is installed. Without them, Python decodes CTC, and PyTorch alone computes."""
    try:
        import pybind11
    except ImportError:
        return []

    def extension(name: str, sources: list[str], headers: list[str], flags: list[str]) -> Extension:
        return Extension(
            f"hubert_fast.{name}",
            sources,
            depends=headers,
            include_dirs=[pybind11.get_include()],
            extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", *flags],
            extra_link_args=[flag for flag in flags if flag == "-pthread"],
            language="c++",
            optional=True,
        )

    return [
        extension("_ctc", ["csrc/ctc_collapse.cpp"], [], ["-pthread"]),
        extension(
            "_cpu",
            [
                "csrc/cpu.cpp",
                "csrc/attention_cpu.cpp",
                "csrc/first_convolution_cpu.cpp",
                "csrc/positions_cpu.cpp",
                "csrc/rows_cpu.cpp",
            ],
            ["csrc/cpu.h", "csrc/gelu_cpu.h"],
            # GCC 12 warns about its own headers, which leave registers undefined on purpose
            ["-Wno-uninitialized", "-Wno-maybe-uninitialized"],
        ),
    ]


TRANSFORMERS = ["transformers>=4.34.1"]
CURRENT_TRANSFORMERS = ["transformers>=5"]  # tests and benchmarks compare with it
DEMO = ["jiwer>=3"]
CPU_PEERS = [  # that `hubert-fast bench` compares with on a CPU
    "openvino>=2024.6",
    "onnxruntime>=1.20",
    "onnx>=1.17",
    "onnxscript>=0.6",  # torch exports with it
    *CURRENT_TRANSFORMERS,
]
TENSORFLOW = ["keras>=3.6", "h5py>=3.10"]  # and TensorFlow, of which there are several builds
UNITS = ["scikit-learn>=1.3"]  # hubert-fast kmeans learns with it
PARQUET = ["pyarrow>=15"]
FAISS = ["faiss-cpu>=1.8"]  # reads centroids in faiss indices
S3 = ["s3fs>=2023.1"]
GCS = ["gcsfs>=2023.1"]
RAY = ['ray[data]>=2.40; python_version < "3.14"']

setup(
    name="hubert_fast",
    version=VERSION,
    description="Fast HuBERT speech encoders with the checkpoints and outputs of Hugging Face transformers",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        "hubert_fast",
        "hubert_fast.audio",
        "hubert_fast.benchmark",
        "hubert_fast.check",
        "hubert_fast.ctc",
        "hubert_fast.demo",
        "hubert_fast.integrations",
        "hubert_fast.integrations.tensorflow",
        "hubert_fast.jobs",
        "hubert_fast.jobs.shards",
        "hubert_fast.kernels",
        "hubert_fast.ops",
        "hubert_fast.packed",
        "hubert_fast.transcribe",
        "hubert_fast.units",
    ],
    package_dir={"hubert_fast": "hubert_fast", "hubert_fast.kernels": "kernels"},
    package_data={"hubert_fast": ["py.typed"], "hubert_fast.demo": ["*.json", "*.safetensors", "recordings/*"]},
    include_package_data=False,
    ext_modules=extensions(),
    install_requires=[
        "torch>=2.6",
        "numpy>=1.26",
        "safetensors>=0.4",
        "huggingface_hub>=0.16.4",
        "soundfile>=0.12",
        "soxr>=0.4",
        "av>=17.1",  # earlier versions crash on FLV
        "tqdm>=4.60",
        "fsspec>=2023.1",
    ],
    extras_require={
        "demo": DEMO,
        "wer": DEMO,
        "ray": RAY,
        "s3": S3,
        "gcs": GCS,
        "units": UNITS,
        "parquet": PARQUET,
        "faiss": FAISS,
        "transformers": TRANSFORMERS,
        "tensorflow": ["tensorflow>=2.16", *TENSORFLOW],
        "test-tensorflow": ["tensorflow-cpu>=2.16", *TENSORFLOW, "pytest>=8", "pytest-xdist>=3.2"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.2",  # the first with --dist worksteal
            "pytest-benchmark>=4",  # bench/ctc.py
            "matplotlib>=3.8",
            "build>=1",  # test_install builds and installs the package
            "setuptools>=70",
            "pybind11>=2.12",
            "wheel>=0.40",  # the setuptools in virtual environments of Python 3.11 needs it
            "kernels>=0.4",  # of Hugging Face; our folder has the same name
            'triton>=3.6; sys_platform == "linux"',
            "hypothesis>=6.100",
            "aiohttp>=3.9",  # fsspec reads http with it
            "accelerate>=1.1",  # required by transformers' Trainer
            "peft>=0.14",
            *CPU_PEERS,
            *DEMO,
            *RAY,
            *UNITS,
            *FAISS,
            *PARQUET,
            *S3,
            "moto[s3,server]>=5",  # a fake S3
        ],
        "bench": ["pytest-benchmark>=4", "matplotlib>=3.8", *CURRENT_TRANSFORMERS, *DEMO],
        "bench-cpu": CPU_PEERS,
        "docs": [
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.5,<10",
            "mkdocstrings[python]>=0.27",
            'pymdown-extensions>=10.9,<11; python_version < "3.11"',  # the last mkdocstrings for Python 3.10 takes no 11
        ],
        "dev": ["ruff>=0.9", "mypy>=1.15", "pre-commit>=4"],  # constraints.txt pins what `make lint` runs
    },
    entry_points={"console_scripts": ["hubert-fast = hubert_fast.__main__:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)

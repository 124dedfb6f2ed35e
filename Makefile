# Two commands, each alone, on a fresh machine:  make demo   make test
# PYTHON chooses the interpreter (3.10 to 3.13), VENV where the virtual environment goes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-rest test-tensorflow in-tensorflow report docs sanitize gpu-kit lint clean

help:
	@echo "make demo   install into $(VENV) and transcribe the bundled recordings"
	@echo "make test   install into $(VENV) and run the tests, but not those marked bench or slow"
	@echo "make test-rest  run the tests marked bench or slow"
	@echo "make test-tensorflow  install TensorFlow into $(VENV)-tensorflow and run the tests that need it"
	@echo "make docs   build the documentation into site/"
	@echo "make report  write the tables and plots of README.md and docs/ from the rows in bench/results"
	@echo "make sanitize  run the tests of the C++ extensions under sanitizers (needs g++)"
	@echo "make gpu-kit  pack what a bare GPU machine needs to run bench/gpu (GPU_PYTHON: a Python 3.12 like its own)"
	@echo "make lint   check style, formatting and types"
	@echo "make clean  remove the virtual environments and what was built"

# A stamp per extra: reinstalled when the package's requirements change. Editable, so the code is always this folder's.
$(VENV)/installed-%: setup.py pyproject.toml constraints.txt $(wildcard csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hubert_fast needs Python 3.10 or newer, but $(PYTHON) is " + sys.version.split()[0])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing hubert_fast[$*] into $(VENV)"
	@$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

demo: $(VENV)/installed-demo
	@$(BIN)/hubert-fast demo

# In two processes, each of which takes one thread (tests/conftest.py).
TEST_PROCESSES ?= 2
test: $(VENV)/installed-test
	@$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal -m "not bench and not slow" $(PYTEST_ARGS)

test-rest: $(VENV)/installed-test
	@$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile -m "bench or slow" $(PYTEST_ARGS)

# In an environment of its own: TensorFlow restricts the versions of packages that the other tests need.
test-tensorflow:
	@$(MAKE) --no-print-directory VENV=$(VENV)-tensorflow in-tensorflow

in-tensorflow: $(VENV)/installed-test-tensorflow
	@$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal tests/test_tensorflow*.py $(PYTEST_ARGS)

report: $(VENV)/installed-bench
	@$(BIN)/python bench/report.py

docs: $(VENV)/installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "the documentation is in site/index.html"

# The C++ of csrc/ under the address and undefined-behaviour sanitizers, with its tests and a fuzz of the raw entry point.
CXX ?= g++
SANITIZED := -std=c++17 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all -shared -fPIC -pthread
sanitize: $(VENV)/installed-test
	@mkdir -p build/sanitized
	@$(CXX) $(SANITIZED) $$($(BIN)/python -m pybind11 --includes) csrc/ctc_collapse.cpp -o build/sanitized/_ctc.so
	@$(CXX) $(SANITIZED) $$($(BIN)/python -m pybind11 --includes) csrc/*cpu.cpp -o build/sanitized/_cpu.so
	@LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	  $(BIN)/python -m pytest tests/test_ctc.py tests/test_ctc_fuzz.py tests/test_cpu_kernels.py \
	  --ctc-extension build/sanitized/_ctc.so --cpu-extension build/sanitized/_cpu.so

# GPU_PYTHON: a Python 3.12 with its headers. Where it has torch, transformers, triton 3.6.0, setuptools and pybind11, they serve;
# else build/gpu-kit-python gets them: gigabytes, unless pip finds a CPU build of torch.
GPU_PYTHON ?= python3.12
KIT_PYTHON := build/gpu-kit-python/bin/python
gpu-kit:
	@command -v $(GPU_PYTHON) >/dev/null || { echo "make gpu-kit needs Python 3.12, and there is no $(GPU_PYTHON): name one with GPU_PYTHON=..." >&2; exit 1; }
	@$(GPU_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12) and "make gpu-kit needs Python 3.12, but $(GPU_PYTHON) is " + sys.version.split()[0])'
	@$(GPU_PYTHON) -c 'import os, sys, sysconfig; folder = sysconfig.get_paths()["include"]; sys.exit(not os.path.exists(folder + "/Python.h") and "make gpu-kit needs the headers of $(GPU_PYTHON), but there is no Python.h in " + folder)'
	@has_all() { "$$1" -c 'import numpy, pybind11, setuptools, torch, transformers, triton; assert triton.__version__ == "3.6.0"' 2>/dev/null; }; \
	  python=$(GPU_PYTHON); has_all $$python || python=$(KIT_PYTHON); \
	  has_all $$python || { echo "installing torch, transformers and triton 3.6.0 into build/gpu-kit-python" \
	    && $(GPU_PYTHON) -m venv --clear build/gpu-kit-python \
	    && $$python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch transformers numpy setuptools pybind11 \
	    && $$python -m pip install --quiet --disable-pip-version-check --no-deps triton==3.6.0; } || exit 1; \
	  $$python bench/gpu/kit.py

# The types are checked against what the tests install: without transformers, say, its names would be unknown.
lint: $(VENV)/installed-test $(VENV)/installed-dev
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) $(VENV)-tensorflow build dist *.egg-info

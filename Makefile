# Two commands, each alone, on a fresh machine:  make demo   make test
# PYTHON chooses the interpreter (3.10 to 3.13), VENV where the virtual environment goes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test report sanitize lint clean

help:
	@echo "make demo   install into $(VENV) and transcribe the bundled recordings"
	@echo "make test   install into $(VENV) and run the tests"
	@echo "make report make the tables and plots of README.md from the rows in bench/results"
	@echo "make sanitize  run the tests of the C++ extension under sanitizers (needs g++)"
	@echo "make lint   check the code's style"
	@echo "make clean  remove $(VENV) and what was built"

# A stamp per extra: reinstalled when the package's requirements change. Editable, so the code is always this folder's.
$(VENV)/installed-%: setup.py pyproject.toml constraints.txt $(wildcard csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hubert_fast needs Python 3.10 or newer, but $(PYTHON) is " + sys.version.split()[0])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing hubert_fast[$*] into $(VENV)"
	@$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

demo: $(VENV)/installed-demo
	@$(BIN)/hubert-fast demo

test: $(VENV)/installed-test
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

report: $(VENV)/installed-bench
	@$(BIN)/python bench/report.py

# The C++ of csrc/ under the address and undefined-behaviour sanitizers, with its tests and a fuzz of the raw entry point.
CXX ?= g++
sanitize: $(VENV)/installed-test
	@mkdir -p build/sanitized
	@$(CXX) -std=c++17 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all -shared -fPIC -pthread \
	  $$($(BIN)/python -m pybind11 --includes) csrc/ctc_collapse.cpp -o build/sanitized/_ctc.so
	@LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	  $(BIN)/python -m pytest tests/test_ctc.py tests/test_ctc_fuzz.py --ctc-extension build/sanitized/_ctc.so

lint: $(VENV)/installed-demo
	@$(PIP_INSTALL) ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info

# Two commands, each alone, on a fresh machine:  make demo   make test
# PYTHON chooses the interpreter (3.10 to 3.13), VENV where the virtual environment goes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@echo "make demo   install into $(VENV) and transcribe the bundled recordings"
	@echo "make test   install into $(VENV) and run the tests"
	@echo "make lint   check the code's style"
	@echo "make clean  remove $(VENV) and what was built"

# A stamp per extra: reinstalled when the package's requirements change. Editable, so the code is always this folder's.
$(VENV)/installed-%: setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hubert_fast needs Python 3.10 or newer, but $(PYTHON) is " + sys.version.split()[0])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing hubert_fast[$*] into $(VENV)"
	@$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

demo: $(VENV)/installed-demo
	@$(BIN)/hubert-fast demo

test: $(VENV)/installed-test
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/installed-demo
	@$(PIP_INSTALL) ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info

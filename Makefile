# Every target creates .venv and installs what it needs. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Processes that run the tests, and threads that each of them uses.
WORKERS ?= auto
THREADS ?= 1
# More arguments for pytest. CI asks for --cov, which takes a third to two fifths more time.
PYTEST_ARGS ?=
# Neighbours stay together, which share what a module prepares; who is done first takes over.
# Compiled once (pytest rewrites their assertions), whatever the environment says of bytecode.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test test-all lint bench docs clean

demo: $(VENV)/.all
	$(BIN)/python examples/digits.py

# Every behaviour once, at small sizes; test-all adds what is thorough or long.
test: $(VENV)/.test
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.test
	$(PYTEST) $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Python 3.11 or newer is needed, $$($(PYTHON) --version) was found; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps are files so that an unchanged pyproject.toml installs nothing.
$(VENV)/.all: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all]"
	@touch $@

$(VENV)/.test: $(VENV)/.all
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,test]"
	@touch $@

$(VENV)/.dev: $(VENV)/.all
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,dev]"
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,bench]"
	@touch $@

$(VENV)/.docs: $(VENV)/.all
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,docs]"
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

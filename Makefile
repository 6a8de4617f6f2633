# Needs python3 (3.11 or newer) and make, nothing else. Everything is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PEER := .venv-conformance
JOBS ?= 2
MARKS := not gpu and not vllm and not ray
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
# One thread a test process: the models are tiny, and threads would only fight. Tests never reach for a network.
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --quiet --numprocesses $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint slow mutants conformance smollm2 evidence bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY) ## install rung and its tools into .venv (once)
	@:

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rung needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	@echo "setting up .venv (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install --constraint constraints.txt torch
	@$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY) ## teach a tiny model to reason, in two minutes on a CPU
	@$(BIN)/rung train

test: lint ## lint, types, import rule and the fast tests
	@$(PYTEST) -m "not slow and $(MARKS)"

lint: $(READY)
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }

slow: $(READY) ## the slow tests
	@$(PYTEST) -m "slow and $(MARKS)"

mutants: $(READY) ## plant one-token mistakes, each of which the tests must catch (ARGS="--only kl" for some)
	@$(BIN)/python tests/mutants/mutants.py --jobs $(JOBS) $(ARGS)

conformance: $(PEER)/.ready ## compare with polgrad 0.2.1, which is installed into an environment of its own
	@OMP_NUM_THREADS=1 $(PEER)/bin/python -m pytest --quiet tests/conformance $(ARGS)

$(PEER)/.ready: pyproject.toml constraints.txt
	@echo "setting up $(PEER) (a few minutes, once)"
	@test -x $(PEER)/bin/python || $(PYTHON) -m venv $(PEER)
	@$(PEER)/bin/python -m pip --quiet --quiet --disable-pip-version-check install --constraint constraints.txt torch
	@$(PEER)/bin/python -m pip --quiet --quiet --disable-pip-version-check install --constraint constraints.txt \
		--editable . polgrad==0.2.1 'pytest>=8.3'
	@touch $@

smollm2: $(READY) ## fetch SmolLM2-135M-Instruct into the user's cache, as a Hugging Face checkpoint
	@$(BIN)/rung smollm2

evidence: $(READY) ## why each rung exists, the whole ladder, and their reports; goes on where it was stopped
	@$(BIN)/rung why all --out runs/why --jobs $(JOBS)
	@$(BIN)/rung ladder --out runs/ladder --jobs $(JOBS)
	@for found in runs/ladder runs/why/*/why.json; do $(BIN)/rung report $${found%/why.json} || exit; done

bench: $(READY) ## measure speed and memory (ARGS="..." goes to the benchmark)
	@$(BIN)/python benchmarks/run.py $(ARGS)

clean: ## remove caches and build products; runs/ and .venv stay
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

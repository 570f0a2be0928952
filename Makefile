# Rampgate: `make demo` shows it, `make test` proves it. Everything runtime lives under var/.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# Everything here is many short processes; without bytecode each would compile our code again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo up down status test test-conformance test-faults test-modes test-cluster test-ui check lint types bench bench-% clean lock env help

help:
	@echo "make demo    the whole story on this machine: promote a good model, take harmful ones out"
	@echo "make up      start the platform and its UIs    make status    what runs, and where"
	@echo "make down    stop it, keep the data            make test      every test that needs no cluster"
	@echo "make check   lint, types and tests             make bench     benchmarks into var/bench/"

env: $(READY)

# uv installs several times faster than pip, but does not read pip's own settings (a company's mirror): then pip goes on.
INSTALL := --quiet --no-deps --require-hashes -r
PIP := $(PY) -m pip --disable-pip-version-check

$(READY): requirements.lock installer.lock
	@command -v $(PYTHON) >/dev/null || { echo "Rampgate needs $(PYTHON); set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "building $(VENV) from requirements.lock (once, a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install $(INSTALL) installer.lock
	@VIRTUAL_ENV=$(abspath $(VENV)) $(VENV)/bin/uv pip install --compile-bytecode $(INSTALL) requirements.lock \
	  || { echo "uv could not; pip tries (a few minutes)"; $(PIP) install $(INSTALL) requirements.lock; }
	@touch $@

demo: $(READY)
	@$(PY) -m pipelines.demo

up: $(READY)
	@$(PY) -m pipelines.platform up

# The platform of `make up`, and the demo's.
down: $(READY)
	@$(PY) -m pipelines.platform down
	@RAMPGATE_HOME=$${RAMPGATE_HOME:-var}/demo $(PY) -m pipelines.platform down

status: $(READY)
	@$(PY) -m pipelines.platform status

test: $(READY)
	@$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not faults and not cluster"

test-conformance: $(READY)
	@$(PY) -m pytest tests/conformance

test-faults: $(READY)
	@$(PY) -m pytest -m faults

test-modes: $(READY)
	@$(PY) -m pytest -m faults tests/platform/test_every_mode.py

test-cluster: $(READY)
	@$(PY) -m pytest -m cluster

test-ui: $(READY)
	@$(PY) -m pytest -m ui

lint: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/lint-imports --no-cache
	@$(VENV)/bin/deptry --no-ansi .
# What ships needs nothing that only developers install.
	@$(VENV)/bin/deptry --no-ansi --optional-dependencies-dev-groups dev --ignore DEP002 pipelines assets resources sensors

types: $(READY)
	@$(VENV)/bin/basedpyright

check: lint types test

# One benchmark: make bench-ingest, make bench-rollback, ...
bench-statistics: $(READY)
	@$(PY) benchmarks/sequential.py

bench-%: $(READY)
	@$(PY) benchmarks/$*.py

bench: $(READY)
	@for script in benchmarks/*.py; do echo "== $$script"; $(PY) $$script || exit 1; done

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url

lock: $(READY)
	@$(VENV)/bin/$(LOCK) --no-strip-extras --extra dev --extra demo pyproject.toml -o requirements.lock
	@$(VENV)/bin/$(LOCK) --no-strip-extras --extra cluster -c requirements.lock pyproject.toml -o serving_manifests/platform/image.lock
	@echo uv | $(VENV)/bin/$(LOCK) --no-header - -o installer.lock
	@printf 'spotify-confidence\npyarrow\n' | $(VENV)/bin/$(LOCK) --no-header - -o benchmarks/peers.lock

clean: down
	rm -rf var

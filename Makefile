# Everything a newcomer types. `make demo` and `make test` install what they need into .venv.
PYTHON ?= python3
export UV_HTTP_TIMEOUT ?= 180
export MLFLOW_DISABLE_TELEMETRY = true
export DO_NOT_TRACK = 1
export ORT_DISABLE_TELEMETRY = 1
bin := .venv/bin
stamp := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format protos bench bench-compile clean

help:
	@echo "make demo    the main job, shown: a model becomes an engine, reaches three agents and masks a live stream"
	@echo "make test    the tests"
	@echo "make lint    ruff, mypy, import-linter, buf, stub drift"
	@echo "make bench   what a frame costs; make bench-compile: what an engine costs"
	@echo "make protos  make maskfleet/v1 from proto/"

install: $(stamp)

$(stamp): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("maskfleet needs Python 3.11 or newer: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	test -x $(bin)/python || $(PYTHON) -m venv .venv
	@# uv installs the same files in a tenth of the time; pip knows registries that are configured for pip only.
	uv="$$(command -v uv || true)"; \
	if [ -z "$$uv" ]; then $(bin)/python -m pip install --quiet --disable-pip-version-check uv && uv=$(bin)/uv; fi; \
	{ [ -n "$$uv" ] && "$$uv" pip install --quiet --python $(bin)/python -r requirements/dev.txt \
	  && "$$uv" pip install --quiet --python $(bin)/python --no-deps -e . ; } \
	|| { $(bin)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt \
	  && $(bin)/python -m pip install --quiet --disable-pip-version-check --no-deps -e . ; }
	touch $@

demo: install
	$(bin)/python -m fleet.demo --out demo-out

test: install
	$(bin)/python -m pytest -n 2 --dist loadgroup

lint: install node_modules
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	@# What runs on JetPack 6 keeps to its Python.
	$(bin)/mypy --python-version 3.10 -p maskfleet -p edge_agent
	$(bin)/lint-imports
	node_modules/.bin/buf lint
	node_modules/.bin/buf format --diff --exit-code > /dev/null
	node_modules/.bin/buf breaking --against proto/released.binpb
	scripts/protos.sh --check

# No lock file: package.json names the one version, and a lock would have to name every platform's build of it.
node_modules: package.json
	npm install --no-package-lock --no-audit --no-fund --loglevel=error
	touch $@

format: install
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

protos:
	scripts/protos.sh

bench: install
	$(bin)/python -m benchmarks

bench-compile: install
	$(bin)/python -m benchmarks.compile --search

clean:
	rm -rf .venv .tools node_modules demo-out

# `make help` lists the targets. Everything is installed into .venv; nothing else is touched.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
ARGS ?=
JOBS ?= 2
SEED ?= 1
KILLS ?= 20
EVENTS ?= 200000
BROKERS ?= 1
NODES ?= 1
CHANGES ?= 100
AWAY ?= 600
RATE ?= 3000
BREAKS ?=
PYTEST := $(BIN)/python -m pytest
.DEFAULT_GOAL := help
.PHONY: help install run test lint types unit integration crash crash-sabotage crash-away upgrade bench bench-peers bench-pages handbook docs screenshots chart dist sbom down clean lock

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed ## install into .venv; the command is .venv/bin/fraudstream

.venv/.installed: requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "fraudstream needs Python 3.11: make PYTHON=/path/to/python3.11 install" >&2; exit 1; }
	@echo "Installing into .venv: a few minutes, once"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: install ## score simulated transactions on real local servers; ARGS=--once ends after the summary
	@$(BIN)/fraudstream demo $(ARGS)

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# whole files, in order: tests with servers take longest, so they run first
test: lint docs ## lint, docs, unit, stream, property, integration and a short crash run, on real servers; JOBS=0 in one process
	$(PYTEST) -m "not bench" -p no:cacheprovider -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

unit: install ## the tests that need no server
	$(PYTEST) $(ARGS)

integration: install ## the tests on a real Kafka and Cassandra
	$(PYTEST) -m integration $(ARGS)

crash: install ## the long crash test: make crash SEED=1 KILLS=20 EVENTS=200000 CHANGES=100
	$(BIN)/python -m tests.crash.run --seed $(SEED) --kills $(KILLS) --events $(EVENTS) --changes $(CHANGES) --brokers $(BROKERS) --nodes $(NODES)

crash-sabotage: install ## the crash test must find seeded faults: BREAKS='"NAME" "NAME"'
	$(BIN)/python -m tests.crash.sabotage $(BREAKS)

crash-away: install ## Cassandra unavailable at full load: make crash-away AWAY=600 RATE=3000
	$(BIN)/python -m tests.crash.away --seconds $(AWAY) --rate $(RATE)

upgrade: install ## two workers are upgraded from an earlier release one at a time, under load, and back; ARGS='--rate 1000'
	$(BIN)/python -m tests.crash.upgrade $(ARGS)

bench: install ## measure this machine; ARGS=--quick for a short run
	$(BIN)/fraudstream bench $(ARGS)

bench-peers: install ## compare with Quix Streams, PySpark and Apache Flink, each in its own environment (.venv-peers)
	$(BIN)/fraudstream bench --peers all $(ARGS)

bench-pages: install ## measure pages, review queue and notifications, for half an hour; ARGS='--only queue,lists'
	$(BIN)/python -m tests.figures.run $(ARGS)

handbook: install ## score the Fraud Detection Handbook's data live, compare with published figures; ARGS=--verify also recomputes everything
	$(BIN)/fraudstream handbook $(ARGS)

screenshots: install ## make the pictures in docs/images again (maintainers; needs chromium)
	$(BIN)/python -m tests.screenshots

docs: install ## build docs/ as a site in build/site; a broken link or anchor fails
	$(BIN)/mkdocs build

chart: install ## render the Helm chart into tests/samples/chart (maintainers; needs helm)
	$(BIN)/python -m tests.chart

dist: install ## build wheel and sdist in dist/
	$(BIN)/python -m build --no-isolation --outdir dist

# describes an environment that contains exactly what the image installs
sbom: dist ## dist/sbom.cdx.json: CycloneDX list of what production installs, with licences
	$(BIN)/python -m venv --clear --without-pip build/production
	$(BIN)/python -m pip --python build/production install --quiet --disable-pip-version-check --require-hashes -r requirements-prod.lock
	$(BIN)/python -m pip --python build/production install --quiet --disable-pip-version-check --no-deps --no-index dist/fraudstream-*.whl
	$(BIN)/python -m cyclonedx_py environment --output-reproducible --output-format JSON --output-file dist/sbom.cdx.json build/production

down: install ## stop the local servers and keep their data
	$(BIN)/fraudstream down

clean: ## remove the environment; the data of local servers stays (fraudstream wipe removes it)
	rm -rf .venv build dist *.egg-info

COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links

# the other two take their versions from the first, so that tests and production use the same versions
lock: install ## write the three lock files again from setup.cfg and pyproject.toml (maintainers)
	$(BIN)/python -m pip install --quiet pip-tools
	$(COMPILE) --all-extras --output-file requirements.lock setup.cfg
	$(COMPILE) --extra registry --extra notify --extra tracing --constraint requirements.lock --output-file requirements-prod.lock setup.cfg
	$(COMPILE) --all-build-deps --only-build-deps --constraint requirements.lock --output-file requirements-build.lock setup.cfg

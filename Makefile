# Everything that people and CI run. `make help` says what; each target but clean makes the virtual environment first.
.DEFAULT_GOAL := help
.PHONY: help setup demo up down test smoke test-zookeeper outages lint bench bench-intake rolling fuzz-decode lossy-intake kill-consumer test-kafka
.PHONY: crashpoints chaos simulate state-machine upgrade-test pins sbom advisories digests clean
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash

VENV := .venv
PY := $(VENV)/bin/python
MANAGE := $(PY) manage.py
# The environment is made again when the pins change, or when this checkout moves (scripts of a virtual environment name its path).
SETUP_KEY = $(shell sha256sum requirements-dev.txt | cut -c1-64) $(CURDIR)
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
FIND_PYTHON = for name in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	if "$$name" -c '$(USABLE)' 2>/dev/null; then command -v "$$name"; break; fi; done
# Tools that look at the pins from outside have an environment of their own.
AUDIT := $(VENV)/audit
AUDIT_KEY = $(shell sha256sum requirements-audit.txt | cut -c1-64) $(CURDIR)
AUDIT_TOOLS = set -e; if [[ "$$(cat $(AUDIT)/.setup 2>/dev/null)" != "$(AUDIT_KEY)" ]]; then \
	$(PY) -m venv --clear $(AUDIT); $(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-audit.txt; \
	echo "$(AUDIT_KEY)" > $(AUDIT)/.setup; fi
PYTEST := $(PY) -m pytest
BENCH ?= overhead burst
# $(call option,NAME): `--name value` where the variable is set
option = $(if $($(1)),--$(shell echo $(1) | tr A-Z a-z) $($(1)))
json = $(if $(JSON),--json)

help: ## show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 14

setup: ## make .venv with the pinned packages (quick when nothing changed)
	@mkdir -p .run # a checkout without git is one all the same: development needs no ENVIRONMENT here
	@if [[ "$$(cat $(VENV)/.setup 2>/dev/null)" == "$(SETUP_KEY)" ]] && $(PY) -c '' 2>/dev/null; then exit 0; fi; \
	python="$$($(FIND_PYTHON))"; \
	if [[ -z "$$python" ]]; then \
		echo "No Python 3.11 or newer with its venv module was found. Debian and Ubuntu: apt install python3-venv. Or name one: make setup PYTHON=/path/to/python3" >&2; \
		exit 1; fi; \
	set -e; \
	if ! $(PY) -m pip --version >/dev/null 2>&1 || [[ "$$(cut -d' ' -f2- $(VENV)/.setup 2>/dev/null || true)" != "$(CURDIR)" && -e $(VENV)/.setup ]]; then \
		echo "Making $(VENV) with $$python"; "$$python" -m venv --clear $(VENV); fi; \
	echo "Installing the pinned packages (a minute or two the first time)"; \
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt; \
	echo "$(SETUP_KEY)" > $(VENV)/.setup

up: setup ## start the servers and all processes in the background (.run/pids, .run/logs)
	@$(MANAGE) stack up
	@DATABASE_STATEMENT_MS_MAX=0 $(MANAGE) migrate --verbosity 0
	@$(MANAGE) first_start --sandbox
	@$(MANAGE) stack services up

down: setup ## stop everything, also what a killed test run left
	@$(MANAGE) stack down
	@for folder in "$${RUN_DIR:-.run}"/*/; do \
		if [[ -e "$$folder/stack.json" ]]; then \
			touch "$$folder/pytest.lock"; \
			flock --nonblock "$$folder/pytest.lock" env RUN_DIR="$$folder" $(MANAGE) stack down || true; fi; done

demo: setup ## clear 500 orders on a service of its own; Ctrl-C ends it (ONCE=1: ends by itself with the audit's exit code; COUNT=500)
	@trap '$(MAKE) down' EXIT; trap 'exit 130' INT TERM; $(MAKE) up && $(MANAGE) demo $(if $(ONCE),--once) $(call option,COUNT)

test: setup ## all tests, on servers of their own
	@$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m "not zookeeper"

smoke: setup ## every documented command once, on a small size (ONLY="rolling,make demo" SKIP=chaos JSON=1)
	@$(PY) -m tests.smoke $(if $(ONLY),--only "$(ONLY)") $(if $(SKIP),--skip "$(SKIP)") $(json)

test-zookeeper: setup ## leadership on a real ZooKeeper, with random faults (COUNT=44 SEED=1; FULL=1: 200)
	@if $(PY) -m stack.zookeeper --install; then \
		$(PYTEST) -m zookeeper tests/leadership && $(PY) -m tests.leadership.faults --seed $(or $(SEED),1) --count $(or $(COUNT),$(if $(FULL),200,44)); \
	else [[ $$? == 3 ]] && echo "test-zookeeper is skipped, for the reason above"; fi

outages: setup ## ZooKeeper down for a minute, then PostgreSQL for 20 s, while orders flow (ZOOKEEPER=60 POSTGRES=20 RATE=)
	@if $(PY) -m stack.zookeeper --install; then \
		$(PY) -m tests.leadership.outages --zookeeper $(or $(ZOOKEEPER),60) --postgres $(or $(POSTGRES),20) $(call option,RATE); \
	else [[ $$? == 3 ]] && echo "outages is skipped, for the reason above"; fi

lint: setup ## ruff, mypy, import rules, missing migrations, the compose file
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy .
	@$(VENV)/bin/lint-imports
	@$(PY) -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	@$(PY) -m stack.compose_check

bench: setup ## benchmarks beside their floor (BENCH="overhead burst" ORDERS= ROUNDS= JSON=1; BASELINE=1: beside an earlier commit as well)
	@for name in $(BENCH); do \
		$(if $(JSON),,echo "$$name:";) $(PY) -m benchmarks "$$name" $(call option,ORDERS) $(call option,ROUNDS) $(json) $(if $(BASELINE),--baseline) || exit; done

bench-intake: ## the intake's benchmarks: decoder, consumer, gap pass over a million known orders (some ten minutes)
	@$(MAKE) bench BENCH="decode ingest gaps"

state-machine: setup ## random sequences of events against the status table (EXAMPLES=500 SEED=); a failure names its seed
	@STATE_MACHINE_EXAMPLES=$(or $(EXAMPLES),500) STATE_MACHINE_SEED=$(SEED) $(PYTEST) -s tests/clearing/store/test_state_machine.py

upgrade-test: setup ## upgrade from an older release and back while orders flow, then the audit (FROM=commit ORDERS=200 SHORT=1 JSON=1)
	@$(PY) -m tests.upgrade $(call option,FROM) $(call option,ORDERS) $(if $(SHORT),--short) $(json)

rolling: setup ## replace every process one by one while orders flow, and measure the delay (RATE= SECONDS=20 REPLACE=worker,web JSON=1)
	@$(PY) -m benchmarks rolling $(call option,RATE) $(call option,REPLACE) --seconds $(if $(filter file,$(origin SECONDS)),20,$(or $(SECONDS),20)) $(json)

fuzz-decode: setup ## a million corrupted messages through the decoder: rows or UnreadableMessage must come out (COUNT=1000000 SEED=1)
	@$(PY) -m tests.fuzz.decode --count $(or $(COUNT),1000000) --seed $(or $(SEED),1)

crashpoints: setup ## kill processes at every boundary between two effects (SAMPLE=1000 SEED=7; SCENARIO=sweep; RECOVERIES=all; MUTATIONS=1: can it fail?)
	@$(PY) -m tests.crashpoints $(if $(MUTATIONS),--mutations) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(RECOVERIES),--recoveries $(RECOVERIES))

lossy-intake: setup ## orders through a pipeline that drops, repeats, reorders and delays them (ORDERS=100000 RATE= SEED=1 DELAY=60 JSON=1)
	@$(PY) -m tests.endurance.lossy --orders $(or $(ORDERS),100000) $(call option,RATE) --seed $(or $(SEED),1) --delay-seconds-max $(or $(DELAY),60) $(json)

kill-consumer: setup ## kill the consumer at random points while orders flow, then audit (ORDERS=20000 KILLS=50 RATE= SEED=1 JSON=1)
	@$(PY) -m tests.endurance.kills --orders $(or $(ORDERS),20000) --kills $(or $(KILLS),50) $(call option,RATE) --seed $(or $(SEED),1) $(json)

test-kafka: setup ## the consumer against a real Apache Kafka (needs java and mvn; its jars are fetched once, 43 MB)
	@$(PY) -m tests.kafka.broker && TEST_KAFKA=1 $(PYTEST) tests/kafka

chaos: setup ## a live service under faults, then the audit (ORDERS=5000 FAULTS=300 SEED=1 SPACING=8)
	@$(PY) -m tests.chaos --orders $(or $(ORDERS),5000) --faults $(or $(FAULTS),300) --seed $(or $(SEED),1) --spacing $(or $(SPACING),8)

simulate: setup ## the engine in virtual time, with random faults (ORDERS=10000 SEED=7 SEEDS=1 PROCESSES=)
	@$(PY) -m tests.simulation --orders $(or $(ORDERS),10000) --seed $(or $(SEED),7) --seeds $(or $(SEEDS),1) $(if $(PROCESSES),--processes $(PROCESSES))

pins: ## compile requirements*.in into hash-pinned requirements*.txt
	@scratch="$$(mktemp -d)"; trap 'rm -rf "$$scratch"' EXIT; set -e; \
	"$$($(FIND_PYTHON))" -m venv "$$scratch"; "$$scratch/bin/pip" install --quiet --disable-pip-version-check uv; \
	for name in requirements requirements-dev requirements-audit; do \
		"$$scratch/bin/uv" pip compile --quiet --no-header --generate-hashes --python-version 3.11 "$$name.in" -o "$$name.txt"; done

sbom: setup ## what the service is built on, as CycloneDX, from its pins (OUT=sbom.cdx.json)
	@$(AUDIT_TOOLS); $(AUDIT)/bin/cyclonedx-py requirements requirements.txt --pyproject pyproject.toml --output-reproducible -o $(or $(OUT),sbom.cdx.json) 2>/dev/null; \
	echo "$(or $(OUT),sbom.cdx.json): $$(grep -c '"purl"' $(or $(OUT),sbom.cdx.json)) packages"

advisories: setup ## known weaknesses of the pinned packages (JSON=1); without a source that knows any: no answer, and exit code 3 behind make's 2
	@$(AUDIT_TOOLS); $(PY) -m stack.advisories $(json)

digests: setup ## pin the images of Dockerfile and docker-compose.yml to what their tags mean today (needs docker)
	@$(PY) -m stack.digests

clean: ## stop everything; remove .run, .venv and caches
	@if $(PY) -m pip --version >/dev/null 2>&1; then $(MAKE) down; fi
	@rm -rf .run $(VENV) staticfiles .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .schemathesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

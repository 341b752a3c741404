# Two commands: `make run` starts the service with demo calls, `make test` proves it. Everything else is detail.
# Only GNU make and Python >= 3.11 are needed; packages come from requirements/*.txt, by hash.

SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python

# A stamp is named after what it stands for: the lock files, the project file, and where the checkout lies (a
# virtual environment does not survive being moved). Nothing changed: nothing to do.
fingerprint = $(shell cat pyproject.toml $(1) 2>/dev/null | (cat; echo "$(CURDIR)") | cksum | tr -d ' ')
PLACE_STAMP := $(VENV)/.place-$(shell echo "$(CURDIR)" | cksum | tr -d ' ')
RUN_STAMP := $(VENV)/.run-$(call fingerprint,requirements/build.txt requirements/run.txt)
DEV_STAMP := $(VENV)/.dev-$(call fingerprint,requirements/build.txt requirements/dev.txt)
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

# Workers of the test run; each starts servers of its own (a Ceph cluster takes 360 MiB).
WORKERS ?= 2
# One file stays with one worker, so that its session fixtures are shared; tests/conftest.py orders the files.
# ARGS adds to it: make test ARGS="-k ranges"
PYTEST := $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --tb=short $(ARGS)
UV ?= $(shell command -v uv || echo $(VENV)/bin/uv)
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links $(UPGRADE)

.PHONY: help run test test-fast test-prompts check coverage chaos bench bench-estate lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 /p' $(MAKEFILE_LIST) | awk '{ printf "  %s %-13s", $$1, $$2; $$1 = $$2 = ""; print }'

run: $(RUN_STAMP) ## build what is missing, start the service on 127.0.0.1:8080 with demo calls (Ctrl-C stops it)
	@exec $(VENV)/bin/recorder demo

test: check $(DEV_STAMP) ## everything: the checks, then the whole suite against real servers
	@$(PYTEST) -m "not prompts" --durations=15

# Apart, because measuring makes the suite a good deal slower and fails nothing.
coverage: $(DEV_STAMP) ## the whole suite once more, telling which lines and branches no test reaches
	@$(PYTEST) -m "not prompts" --cov --cov-report=term

test-fast: $(DEV_STAMP) ## the quick loop: no slow and no browser tests, stops at the first failure
	@$(PYTEST) -x -q -m "not slow and not browser and not prompts"

test-prompts: $(DEV_STAMP) ## every Debian telephony prompt through the service (about 1,700 files)
	@$(PYTEST) -m prompts

check: $(DEV_STAMP) ## types, lint, format, direction of imports, migrations
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy tests
	$(VENV)/bin/ruff check --quiet
	$(VENV)/bin/ruff format --quiet --check
	$(VENV)/bin/lint-imports --no-cache
	$(PY) -m tests.check_migrations
	@! grep -nE 'https?://|--(extra-)?index-url|--find-links' requirements/*.txt || { \
		echo "lock files must not carry addresses"; exit 1; }

chaos: $(DEV_STAMP) ## thousands of pushes while everything breaks; ARGS="--count 3000 --minutes 30 --seed 1", docs/chaos.md
	@$(PY) -m tests.system.chaos $(ARGS)

bench: $(DEV_STAMP) ## measure against the raw S3 server and rclone, write docs/performance.md
	@$(PY) -m bench $(ARGS)

bench-estate: $(DEV_STAMP) ## retention on a million recordings, write docs/performance-retention.md
	@$(PY) -m bench.estate $(ARGS)

lock: ## re-make requirements/*.txt from pyproject.toml; UPGRADE=--upgrade takes newer versions
	@command -v $(UV) >/dev/null || { echo "make lock needs uv: python3 -m pip install uv"; exit 1; }
	$(COMPILE) pyproject.toml -o requirements/base.txt
	$(COMPILE) pyproject.toml --extra demo -o requirements/run.txt
	$(COMPILE) pyproject.toml --extra demo --group dev -o requirements/dev.txt
	$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) requirements/vcon.in -o requirements/vcon.txt

clean: ## remove the virtual environment and every cache; the data directory stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	rm -f .coverage .coverage.*
	find recorder storage retention tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# The newest-named Python that is at least 3.11 and can build environments; one line when there is none.
$(PLACE_STAMP):
	@old=; for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		$$python -c 'import ensurepip, venv' 2>/dev/null || { old=$$python; continue; }; \
		echo "building $(VENV) with $$($$python --version)"; \
		$$python -m venv --clear $(VENV) && touch $@ && exit 0; \
	done; \
	if [ -n "$$old" ]; then echo "$$old lacks the venv module: install it (Debian: apt install python3-venv)"; \
	else echo "Python 3.11 or newer is needed and was not found: install one (Debian: apt install python3 python3-venv)"; fi >&2; \
	exit 1

# The lock files are complete. Left to resolve, pip takes a newer release than the locked one where a package is
# also asked for with an extra, and then refuses it for want of a hash.
$(RUN_STAMP): $(PLACE_STAMP)
	@echo "installing the locked requirements"
	@$(PIP) --require-hashes --no-deps -r requirements/build.txt
	@$(PIP) --require-hashes --no-deps --no-build-isolation --use-pep517 -r requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation --no-index -e .
	@rm -f $(VENV)/.run-*; touch $@

$(DEV_STAMP): $(PLACE_STAMP)
	@echo "installing the locked requirements, with those of the tests"
	@$(PIP) --require-hashes --no-deps -r requirements/build.txt
	@$(PIP) --require-hashes --no-deps --no-build-isolation --use-pep517 -r requirements/dev.txt
	@$(PIP) --no-deps --no-build-isolation --no-index -e .
	@rm -f $(VENV)/.dev-*; touch $@

# Each target does its own set-up: a virtual environment in .venv, made again when pyproject.toml or a C source changes.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
# More than one per core: many tests wait for a grace or a heartbeat of a real node, and others compute meanwhile. A
# worker that has nothing left takes tests from the others; until then it keeps to its own files, whose nodes it shares.
JOBS   ?= 7

.DEFAULT_GOAL = help
.PHONY: help demo demo-web browser test sanitize fuzz lint check schemas soak bench compare wheels aarch clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## the main job on a temporary SQLite file with the bundled plugins; shows what was done
	@$(BIN)/disbatch-host demo

demo-web: $(VENV)/.web ## the page: a temporary store, a node, a few thousand tasks of which some fail; prints the address; Ctrl-C ends it
	@$(BIN)/disbatch-host demo --web $(ARGS)

test: $(VENV)/.test | tests/unit/__pycache__ ## all tests, with a real MongoDB and every language that is here; about 7 minutes on two cores
	$(BIN)/python -m pytest -m "not soak and not sanitized" --numprocesses $(JOBS) --dist worksteal $(ARGS)

browser: ## what the tests of the page need of npm, besides Debian's chromium
	@npm install --prefix tests/web/browser --no-package-lock --no-audit --no-fund --silent

sanitize: $(VENV)/.test ## the tests of disbatch-supervisor once more, built with the sanitizers of the compiler (ASan, UBSan); a minute
	$(BIN)/python -m pytest -m sanitized --numprocesses 2 $(ARGS)

fuzz: $(VENV)/.test ## an hour (or DISBATCH_FUZZ_SECONDS) of libFuzzer on what disbatch-supervisor reads; needs clang
	DISBATCH_REQUIRE_ALL=1 $(BIN)/python -m pytest -s -m soak tests/supervisor/test_fuzzing.py $(ARGS)

lint: $(VENV)/.test ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: $(VENV)/.run ## validate the bundled plugins
	@sh plugins/go/build.sh
	$(BIN)/disbatch-host check --plugins plugins

schemas: $(VENV)/.test ## write schemas/config.json and README's table again from the table of settings, and docs/api.md from that of routes
	$(BIN)/python -m disbatch_host.settings.written .
	$(BIN)/python -m disbatch_host.web.api_page .

soak: $(VENV)/.test ## the long tests (an hour of random documents for each store, or DISBATCH_RANDOM_SECONDS, and one of fuzzing, or DISBATCH_FUZZ_SECONDS), and each command of the acceptance tests as a process of its own
	DISBATCH_TESTS_AS_PROCESS=1 $(BIN)/python -m pytest -m "not soak and not sanitized" --numprocesses $(JOBS) --dist worksteal tests/acceptance $(ARGS)
	$(BIN)/python -m pytest -m "soak or sanitized" $(ARGS)

bench: $(VENV)/.test ## speed, as ratios against something run beside it
	$(BIN)/python bench/run.py $(ARGS)

compare: $(VENV)/.test ## whether NEW is slower than OLD: make compare OLD=REV [NEW=REV]
	@test -n "$(OLD)" || { echo "make: expected OLD=REV, as in: make compare OLD=v1.0 NEW=HEAD"; exit 2; }
	$(BIN)/python bench/compare.py $(OLD) $(or $(NEW),WORKTREE) $(ARGS)

wheels: .venv-wheels/.done ## for a release: dist/ gets the wheels for x86_64 and aarch64 and the sdist; loads a C compiler of 100 MB from PyPI
	@for target in x86_64-linux-musl aarch64-linux-musl; do \
	  CC="$(CURDIR)/.venv-wheels/bin/python -m ziglang cc" DISBATCH_SUPERVISOR_TARGET=$$target \
	    .venv-wheels/bin/python -m build --wheel . || exit 1; done
	@.venv-wheels/bin/python -m build --sdist .
	@rm -rf host/disbatch_host/process/native/bin && touch hatch_build.py

aarch: $(VENV)/.test .venv-wheels/.done ## the supervisor for aarch64: built as for a release, and run by qemu-aarch64-static (Debian: qemu-user-static)
	DISBATCH_REQUIRE_ALL=1 $(BIN)/python -m pytest -m soak tests/supervisor/test_aarch64.py $(ARGS)

clean: ## forget the environment and what was built
	rm -rf $(VENV) .venv-wheels build dist host/disbatch_host/process/native/bin tests/unit/__pycache__ .pytest_cache .mypy_cache .ruff_cache .hypothesis plugins/go/*/bin

# What the build hook compiles, and what decides how.
NATIVE = hatch_build.py $(wildcard host/disbatch_host/process/native/*.[ch])

$(VENV)/.run: pyproject.toml $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: expected Python 3.11 or newer, found $$($(PYTHON) --version); name one with PYTHON=python3.12"; exit 2; }
	@echo "make: setting up $(VENV); pip loads packages, which takes a minute the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# The tests, compiled once: without it, each of the workers would do it at the same time.
tests/unit/__pycache__: | $(VENV)/.test
	@found=$$($(BIN)/python -m pytest --quiet --collect-only) || { echo "$$found"; exit 1; }

.venv-wheels/.done:
	@test -x .venv-wheels/bin/python || $(PYTHON) -m venv .venv-wheels
	@.venv-wheels/bin/python -m pip install --quiet --disable-pip-version-check 'ziglang>=0.13' 'build>=1.2'
	@touch $@

$(VENV)/.web: pyproject.toml $(VENV)/.run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[web]'
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,mongod,lint]'
	@touch $@

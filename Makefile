# Every target makes what it needs: the environment .venv in this checkout, with locked libraries, then the work.
#
#   make demo OUT=DIR [SEED=N] [BROKER=mosquitto] [LANG_=zh]    a small factory, end to end, on this machine
#   make test                                                  make check, then every test
#   make check                                                 ruff, mypy --strict (the gateway for Windows too), the arrows
#   make bench [ONLY=M1,U2]                                    the table of targets, beside peers, or some rows of it
#   make soak [MINUTES=30]                                     the gateway under load while its servers restart, counted to the last sample
#   make fuzz [FUZZ_S=300]                                    every parser of outside bytes, so many seconds each
#   make interop                                               our logs under the eyes of Go's notes and trees (docs/interop.md)
#   make tamper [SEED=N]                                      every class of tampering, and 10 000 honest bundles (docs/tampering.md)
#   make lock                                                  pin the newest libraries that pyproject.toml allows

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-out
SEED ?=
FUZZ_S ?= 300
MINUTES ?= 30
BROKER ?=
LANG_ ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check check-style check-types check-types-windows check-arrows bench fuzz soak interop tamper lock

# Hundreds of processes are started by tests and demos; who forbids compiled files has each compile what it imports.
export PYTHONDONTWRITEBYTECODE :=

help:
	@sed -n '/^#   make/s/^# //p' Makefile

demo: $(VENV)/.demo
	$(BIN)/tallystick demo --out "$(OUT)" $(if $(SEED),--seed $(SEED)) $(if $(BROKER),--broker $(BROKER)) $(if $(LANG_),--lang $(LANG_))

test: check
	$(BIN)/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder

# Two at a time. A memory of its own for each system: mypy keeps one for the last that it was asked about.
check: $(VENV)/.dev
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target check-types check-types-windows check-style check-arrows

check-style:
	$(BIN)/ruff check .

check-types:
	$(BIN)/mypy

check-types-windows:
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 --package gateway --package protocols --package config --package tallystick

check-arrows:
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py $(if $(ONLY),--only "$(ONLY)")

fuzz: $(VENV)/.dev
	$(BIN)/python -m fuzz --seconds $(FUZZ_S)

soak: $(VENV)/.dev
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

interop: $(VENV)/.dev
	$(BIN)/python -m tests.interop.reading

tamper: $(VENV)/.dev
	$(BIN)/python -m verifier.conformance.tamper $(if $(SEED),--seed $(SEED))

# The environment. A stamp says which libraries stand in it; dev holds all of demo, so that one serves both.
# --no-build-isolation: the builder is locked like the rest, and nothing is fetched that has no hash.
PIP_INSTALL = PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet
EDITABLE = PYTHONWARNINGS="ignore:Editable installation" $(PIP_INSTALL) --no-deps --no-build-isolation --editable .

$(VENV)/.demo: requirements/demo.txt requirements/build.txt pyproject.toml | $(BIN)/pip
	@echo "installing the libraries of the demo into $(VENV)"
	@$(PIP_INSTALL) --require-hashes -r requirements/build.txt -r requirements/demo.txt
	@$(EDITABLE)
	@touch $@

$(VENV)/.dev: requirements/dev.txt requirements/build.txt pyproject.toml | $(BIN)/pip
	@echo "installing the libraries of the tests into $(VENV)"
	@$(PIP_INSTALL) --require-hashes -r requirements/build.txt -r requirements/dev.txt
	@$(EDITABLE)
	@touch $(VENV)/.demo $@

# Debian keeps ensurepip in a package of its own, and a venv made without it is half a venv.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; \
	  else \
	    echo "Python cannot make an environment here. Run once: sudo apt-get install python3-venv" >&2; exit 1; \
	  fi; }
	@$(PYTHON) -m venv --clear $(VENV)

# Hashes for every platform, no index, no host. dev first: the others take their versions from it.
COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras \
  --allow-unsafe --no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host
FROM_DEV = --constraint requirements/dev.txt
PARTS = --extra gateway --extra platform --extra simulators --extra documents

lock: $(VENV)/.dev
	$(COMPILE) $(PARTS) --extra dev -o requirements/dev.txt pyproject.toml requirements/build.in
	$(COMPILE) $(FROM_DEV) $(PARTS) -o requirements/demo.txt pyproject.toml
	$(COMPILE) $(FROM_DEV) -o requirements/base.txt pyproject.toml
	$(COMPILE) $(FROM_DEV) -o requirements/build.txt requirements/build.in

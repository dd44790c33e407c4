# Each command does its own set-up, in .venv.
#
#   make run     search a memory mapping for the shipped example, and write a report
#   make test    lint, type check and all tests
#   make lint    lint and type check alone
#   make format  put the code into the one format
#   make bench   the benchmarks
#   make clean   remove .venv, caches and runs
#
# Settings: PYTHON=python3.12   the interpreter to make .venv with
#           TPU=auto|1|0        libtpu, the TPU compiler (it needs no TPU): if it can be
#                               had; it must be had; leave it out
#           JOBS=2              processes that run the tests
#           PYTEST_ARGS=...     further arguments to pytest

PYTHON ?= python3
TPU ?= auto
JOBS ?= 2
PYTEST_ARGS ?=
EXAMPLE ?= examples/gpt2_decode
BUDGET ?= 30s

VENV := .venv
PY := $(VENV)/bin/python
RUN := $(VENV)/.run-$(TPU)
DEV := $(VENV)/.dev-$(TPU)
PIP := $(PY) -m pip --disable-pip-version-check --quiet

.NOTPARALLEL:
.PHONY: run test lint format bench clean

run: $(RUN)
	$(PY) -m mallocgame.search $(EXAMPLE) --out runs/$(notdir $(EXAMPLE)) --budget $(BUDGET)

test: lint
	$(PY) -m pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)

lint: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(DEV)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(RUN)
	@set -e; for script in benchmarks/bench_*.py; do \
	  test -e "$$script" || { echo "no benchmarks/bench_*.py yet"; break; }; \
	  echo "== $$script"; $(PY) -m "benchmarks.$$(basename "$$script" .py)"; \
	done

clean:
	rm -rf $(VENV) runs dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is made anew when its recipe or what it installs changes.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "schedule-zero needs Python 3.11 or newer: make PYTHON=python3.12, say" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) can't make a virtual environment: apt-get install python3-venv" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(RUN): pyproject.toml Makefile | $(PY)
	@echo "installing schedule-zero into $(VENV)"
	@$(PIP) install -e .
	@$(libtpu)
	@touch $@

$(DEV): pyproject.toml Makefile | $(PY)
	@echo "installing schedule-zero and its development tools into $(VENV)"
	@$(PIP) install -e '.[dev]'
	@$(libtpu)
	@touch $@ $(RUN)

no_libtpu = libtpu could not be installed (it exists for x86-64 Linux only; details in $(VENV)/libtpu.log)
unverified = answers will be the simulator's, not verified by the TPU compiler
has_libtpu = $(PY) -c 'import importlib.util as u, sys; sys.exit(u.find_spec("libtpu") is None)'

define libtpu
if [ "$(TPU)" = 0 ]; then \
  echo "left out libtpu: $(unverified)"; \
elif $(PIP) install -e '.[tpu]' 2>$(VENV)/libtpu.log && $(has_libtpu); then :; \
elif [ "$(TPU)" = 1 ]; then \
  cat $(VENV)/libtpu.log >&2; echo "$(no_libtpu)" >&2; exit 1; \
else \
  echo "$(no_libtpu): going on without, $(unverified)"; \
fi
endef

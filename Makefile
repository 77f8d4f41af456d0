# The tasks of this repository. `make` alone lists them.
#
# Every task makes what it needs first: a virtual environment in .venv, and in it only the packages
# of that task. A stamp file is written after each install that worked; a task whose stamps are newer
# than pyproject.toml installs nothing. Needs a POSIX shell and GNU make 3.81 or later.
# Two kinds of task differ: `test-cupy` has an environment of its own, because .venv is to show that
# all else works without CuPy; and the tasks on a GPU take a Python that has everything, and install
# nothing, because GPUs often stand where there is no network.

SHELL         := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:                    # two pips in one environment would get in each other's way

VENV := .venv
BIN  := $(VENV)/bin
CUPY := .venv-cupy
# For test-gpu and bench-gpu: a Python with CuPy and its CUDA libraries, pytest and Hypothesis.
GPU_PYTHON ?= python3

# Options for the program a task runs: make demo ARGS="--epochs 1", make test ARGS="-k lstm -x".
ARGS ?=
# How many examples Hypothesis tries: dev, ci or nightly.
HYPOTHESIS_PROFILE ?= ci

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# The pip of the environment that the stamp is in. Errors only: a machine's own pip settings can fill
# the screen with warnings.
PIP = $(@D)/bin/python -m pip -qq
ifneq ($(CI),)
export PIP_PROGRESS_BAR := off
# A log that fails tomorrow is compared with today's: say which versions were used.
LIST = @$(@D)/bin/python -m pip list --format=freeze --exclude-editable
else
LIST = @:
endif

# An environment holds absolute paths: after the checkout has moved, or the Python it was made with has
# gone, it is made anew. .venv/.root says where it was made, and is written last.
usable = $(shell test "$$(cat $(1)/.root 2>/dev/null)" = "$(CURDIR)" \
           && $(1)/bin/python -c '' 2>/dev/null && echo usable)
ifneq ($(call usable,$(VENV)),usable)
$(VENV)/.root: remake
endif
ifneq ($(call usable,$(CUPY)),usable)
$(CUPY)/.root: remake
endif

.PHONY: help demo test test-cupy test-gpu data nightly mutants lint bench growth where bench-gpu clean remake

help:  ## list the tasks
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
	  awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'
	@echo
	@echo 'ARGS="..." is passed on:   make test ARGS="-k lstm -x"'
	@echo 'PYTHON=... picks a Python: make test PYTHON=python3.12'

demo: $(VENV)/.stamp-base  ## train a small character model and write to runs/demo
	$(BIN)/tinygrad-rnn train --out runs/demo $(ARGS)

test: $(VENV)/.stamp-test  ## run the tests
	$(BIN)/python -m pytest --hypothesis-profile=$(HYPOTHESIS_PROFILE) $(ARGS)

test-cupy: $(CUPY)/.stamp-cupy  ## prove without a GPU what can be: CuPy's names, CUDA that compiles
	$(CUPY)/bin/python -m pytest -m cupy tests/cupy --hypothesis-profile=$(HYPOTHESIS_PROFILE) $(ARGS)

# First a check that there is a GPU to test on: pytest is content where every test was skipped.
test-gpu:  ## run the tests on a GPU, with the packages of GPU_PYTHON (default: python3)
	@options=$$($(GPU_PYTHON) -m tests.gpu_ready) && set -x && \
	  PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 OPENBLAS_NUM_THREADS=1 $(GPU_PYTHON) -m pytest -m gpu \
	  $$options --hypothesis-profile=$(HYPOTHESIS_PROFILE) $(ARGS)

data: $(VENV)/.stamp-data  ## install the packages whose data the examples read

nightly: $(VENV)/.stamp-test  ## train networks on long memories until they reach their numbers
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(ARGS)  # as the committed numbers

mutants: $(VENV)/.stamp-test  ## measure the tests: break the package on purpose, see them notice
	$(BIN)/python -m tests.mutation.run $(ARGS)

lint: $(VENV)/.stamp-lint  ## check style, types, spelling and the repository itself
	@status=0; \
	for check in 'ruff check .' 'ruff format --check .' mypy codespell 'repo-review --show err .'; do \
	  echo "$(BIN)/$$check"; \
	  $(BIN)/$$check || status=1; \
	done; \
	exit $$status    # every check has spoken before the first complaint ends the run

bench: $(VENV)/.stamp-bench  ## time everything on the CPU beside PyTorch and JAX (15 minutes)
	$(BIN)/python -m benchmarks.cpu $(ARGS)

growth: $(VENV)/.stamp-bench  ## see time and memory of a step grow with T, B and H (12 minutes)
	$(BIN)/python -m benchmarks.growth $(ARGS)

where: $(VENV)/.stamp-bench  ## see where the time of a step goes, with Linux's sampler perf
	$(BIN)/python -m benchmarks.where $(ARGS)

bench-gpu:  ## time training on a GPU beside PyTorch, and write benchmarks/results/gpu.md
	$(GPU_PYTHON) -m benchmarks.gpu --write $(ARGS)

clean:  ## remove the environments, caches and build output; runs/ (what you trained) stays
	rm -rf $(VENV) $(CUPY) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -type d -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# ---- the environment ----------------------------------------------------------------------------

# What is left of an unusable environment goes. The first Python that is new enough and can make
# environments makes another. pip is upgraded because `--group` came with pip 25.1, and a new
# environment has whatever pip that Python was shipped with.
$(VENV)/.root $(CUPY)/.root:
	@rm -rf $(@D)
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	      >/dev/null 2>&1; then \
	    echo "Making $(@D) with $$("$$python" --version) ($$python)"; \
	    "$$python" -m venv $(@D) || exit 1; \
	    exit 0; \
	  fi; \
	done; \
	echo "No Python 3.11 or newer with the venv module was found." \
	     "Install one, or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1
	@$(PIP) install --upgrade 'pip>=25.1'
	@printf '%s\n' '$(CURDIR)' > $@

# The package itself, editable, with pictures: all that a person who wants to train needs.
$(VENV)/.stamp-base: $(VENV)/.root pyproject.toml
	@echo "Installing tinygrad_rnn into $(VENV)"
	@$(PIP) install --editable '.[plot]'
	@touch $@

$(VENV)/.stamp-data: $(VENV)/.stamp-base
	@$(PIP) install --editable '.[data,plot]'
	@touch $@

# A task's own tools come on top, as a dependency group of pyproject.toml.
$(VENV)/.stamp-test:  GROUP := test
$(VENV)/.stamp-lint:  GROUP := lint
$(VENV)/.stamp-bench: GROUP := compare
$(VENV)/.stamp-test $(VENV)/.stamp-lint $(VENV)/.stamp-bench: $(VENV)/.stamp-base
	@echo "Installing the packages of group '$(GROUP)'"
	@$(PIP) install --group $(GROUP)
	$(LIST)
	@touch $@

# In one call, so that pip finds versions that suit both.
$(CUPY)/.stamp-cupy: $(CUPY)/.root pyproject.toml
	@echo "Installing tinygrad_rnn and the packages of group 'cupy' into $(CUPY) (about 100 MB)"
	@$(PIP) install --editable . --group cupy
	$(LIST)
	@touch $@

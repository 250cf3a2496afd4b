# Every target sets up what it needs in $(VENV) on first use; a later call starts at once.

PYTHON ?= python3
VENV ?= .venv
# Where Detectron2 comes from: `registry`, or a pip requirement (see tools/install_detectron2.py).
DETECTRON2 ?= registry
PYTEST_ARGS ?=
# Processes of pytest, each on one thread: most tests are too small for more.
WORKERS ?= 2
# Rows and options of `tools/reproduce.py smoke`; none: all rows.
SMOKE_ARGS ?=
# The environment of the classic OpenMMLab packages, which own the same import names as those in $(VENV).
CLASSIC_VENV ?= .venv-classic

export PIP_DISABLE_PIP_VERSION_CHECK := 1

PY := $(VENV)/bin/python
CLASSIC_PY := $(CLASSIC_VENV)/bin/python
INSTALLED := $(VENV)/.installed
# The name carries the source, so that another DETECTRON2 is another target and gets installed.
DETECTRON2_INSTALLED := $(VENV)/.detectron2-$(shell printf '%s' '$(DETECTRON2)' | cksum | cut -d ' ' -f 1)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup test test-full test-classic lint format docs notebooks package demo smoke faults clean

help:  ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "settings: PYTHON=$(PYTHON) VENV=$(VENV) DETECTRON2=$(DETECTRON2) PYTEST_ARGS=$(PYTEST_ARGS) WORKERS=$(WORKERS) SMOKE_ARGS=$(SMOKE_ARGS)"

setup: $(DETECTRON2_INSTALLED)  ## create the environment with everything the other targets need

test: setup  ## run the tests and the doctests, without the slow ones
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-full: setup  ## run all tests, the slow ones as well
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile -m "slow or not slow" $(PYTEST_ARGS)

test-classic: $(CLASSIC_VENV)/.installed  ## run MMSegmentation's tests with its classic release; compiles for long
	$(CLASSIC_PY) -m pytest tests/mmseg $(PYTEST_ARGS)

lint: setup  ## check style, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy tests/public_api.py

format: setup  ## rewrite the sources in the format that lint checks
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: setup  ## build the documentation in site/, with every warning an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

notebooks: setup  ## run docs/notebooks from top to bottom and store what they show
	$(PY) tools/run_notebooks.py

package: setup  ## build wheel and sdist in dist/, and check what an index would say of them
	rm -rf dist build
	$(PY) -m build --no-isolation
	$(PY) -m twine check --strict dist/*

demo: setup  ## train, evaluate and draw on a small example
	$(PY) tools/make_demo.py

smoke: setup  ## run every published recipe end to end on the CPU, for a few iterations on a small data set
	$(PY) tools/reproduce.py smoke $(SMOKE_ARGS)

faults: setup  ## inject faults into real trainings (kills, full disks, broken files), and print what happened
	PYTHONPATH=.:tools $(PY) -m tests.faults.inject_faults

clean:  ## remove the environment, builds and caches
	rm -rf $(VENV) $(CLASSIC_VENV) build dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): setup.py $(wildcard requirements/*.txt)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v < (3, 14) or sys.exit("PYTHON must be Python 3.10 to 3.13, got $(PYTHON), which is %d.%d" % v)'
	@echo "installing the pinned environment in $(VENV), which takes some minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -r requirements/build.txt
	$(PY) -m pip install --quiet --no-build-isolation -c requirements/constraints.txt -e '.[detectron2,mmseg,demo,export,notebooks,docs,dev]'
	$(PY) -m pip install --quiet --no-build-isolation --no-deps -r requirements/peers.txt
	@touch $@

$(DETECTRON2_INSTALLED): $(INSTALLED) tools/install_detectron2.py
	$(PY) tools/install_detectron2.py --source '$(DETECTRON2)'
	@rm -f $(VENV)/.detectron2-*
	@touch $@

$(CLASSIC_VENV)/.installed: setup.py requirements/build.txt requirements/classic.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v < (3, 13) or sys.exit("PYTHON must be Python 3.10 to 3.12, got $(PYTHON), which is %d.%d" % v)'
	@echo "installing the classic environment in $(CLASSIC_VENV): mmcv is compiled, a quarter of an hour on one core"
	$(PYTHON) -m venv $(CLASSIC_VENV)
	$(CLASSIC_PY) -m pip install --quiet -r requirements/build.txt
	$(CLASSIC_PY) -m pip install --quiet -r requirements/classic.txt
	MMCV_WITH_OPS=1 $(CLASSIC_PY) -m pip install --quiet --no-build-isolation --no-deps mmcv==2.1.0
	$(CLASSIC_PY) -m pip install --quiet --no-build-isolation --no-deps -e .
	@touch $@

# Every target sets up $(VENV) on first use.

PYTHON ?= python3
VENV ?= .venv
# Where Detectron2 comes from: `registry`, or a pip requirement (see resnest-backbones install-detectron2).
DETECTRON2 ?= registry
PYTEST_ARGS ?=
# Test processes, each with one thread: most tests are too small for more.
WORKERS ?= 2
# Further arguments of pytest for `make smoke`, such as "-k cityscapes"; default: all recipes.
SMOKE_ARGS ?=
# The Python of the machine with the GPU, and arguments; "--device cpu --quick --output-dir rehearsal" rehearses the run.
GPU_PYTHON ?= python3
GPU_ARGS ?= --output-dir docs/benchmark/gpu
# The environment of the classic OpenMMLab packages, whose import names clash with those in $(VENV).
CLASSIC_VENV ?= .venv-classic
# The environment of MMDetection, with compiled operators of mmcv; the rest comes from $(VENV).
MMDET_VENV ?= .venv-mmdet

export PIP_DISABLE_PIP_VERSION_CHECK := 1

PY := $(VENV)/bin/python
CLASSIC_PY := $(CLASSIC_VENV)/bin/python
MMDET_PY := $(MMDET_VENV)/bin/python
INSTALLED := $(VENV)/.installed
# The name carries the source, so that another DETECTRON2 is another target and gets installed.
DETECTRON2_INSTALLED := $(VENV)/.detectron2-$(shell printf '%s' '$(DETECTRON2)' | cksum | cut -d ' ' -f 1)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup test test-full test-classic test-mmdet zoo lint format docs notebooks package demo smoke gpu faults clean

help:  ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "settings: PYTHON=$(PYTHON) VENV=$(VENV) DETECTRON2=$(DETECTRON2) PYTEST_ARGS=$(PYTEST_ARGS) WORKERS=$(WORKERS) SMOKE_ARGS=$(SMOKE_ARGS)"

setup: $(DETECTRON2_INSTALLED)  ## create the environment that the other targets need

test: setup  ## run the tests and doctests, except the slow ones (about 8 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-full: setup  ## run all tests, including the slow ones
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "slow or not slow" --timeout 1800 $(PYTEST_ARGS)

test-classic: $(CLASSIC_VENV)/.installed  ## run the tests of tests/mmseg with the classic OpenMMLab packages; compiling them takes long
	$(CLASSIC_PY) -m pytest tests/mmseg $(PYTEST_ARGS)

test-mmdet: $(MMDET_VENV)/.installed  ## train and evaluate MMDetection's detectors; compiling mmcv's operators takes long
	$(MMDET_PY) -m pytest -m "slow or not slow" tests/test_mmdet.py $(PYTEST_ARGS)

zoo: setup  ## put a ResNeSt into every config of both frameworks, train each for a step, and print a table (half an hour)
	ZOO=all OMP_NUM_THREADS=1 $(PY) -m pytest -m slow tests/detectron2/test_zoo.py tests/mmseg/test_zoo.py $(PYTEST_ARGS)

lint: setup  ## check style, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy tests/public_api.py

format: setup  ## format the sources and fix what ruff can fix
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: setup  ## build the documentation in site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

notebooks: setup  ## run the notebooks in docs/notebooks and store their outputs
	$(PY) tools/run_notebooks.py

package: setup  ## build wheel and sdist in dist/ and check their metadata
	rm -rf dist build
	$(PY) -m build --no-isolation
	$(PY) -m twine check --strict dist/*

demo: setup  ## train a detector and a segmentor on a small dataset, evaluate them and draw their predictions
	$(PY) tools/make_demo.py

smoke: setup  ## run every published recipe end to end on the CPU, for two iterations on a small dataset
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) -m "slow or not slow" tests/reproduction/test_smoke.py $(SMOKE_ARGS)

gpu:  ## check and measure on a GPU (8 minutes); needs PyTorch and what tools/check_gpu.py names, no other set-up
	$(GPU_PYTHON) tools/check_gpu.py $(GPU_ARGS)

faults: setup  ## inject faults into real trainings (kills, full disks, broken files) and print a table (half an hour)
	OMP_NUM_THREADS=1 $(PY) -m pytest -p tests.faults.fault_table -m fault $(PYTEST_ARGS)

clean:  ## remove the environment, builds and caches
	rm -rf $(VENV) $(CLASSIC_VENV) $(MMDET_VENV) build dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): setup.py $(wildcard requirements/*.txt)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v < (3, 14) or sys.exit("PYTHON must be Python 3.10 to 3.13, got $(PYTHON), which is %d.%d" % v)'
	@echo "installing the pinned environment in $(VENV), which takes some minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -r requirements/build.txt
	$(PY) -m pip install --quiet --no-build-isolation -c requirements/constraints.txt -e '.[detectron2,mmseg,demo,export,pretrain,notebooks,docs,dev]'
	$(PY) -m pip install --quiet --no-build-isolation --no-deps -r requirements/peers.txt
	@touch $@

$(DETECTRON2_INSTALLED): $(INSTALLED) resnest_backbones/commands/install_detectron2.py
	$(PY) tools/install_detectron2.py --force --source '$(DETECTRON2)'
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

# Packages in an environment go before those of a folder that a .pth file adds.
$(MMDET_VENV)/.installed: $(INSTALLED)
	@echo "installing MMDetection in $(MMDET_VENV): mmcv is compiled, half an hour on one core"
	$(PY) -m venv --without-pip $(MMDET_VENV)
	$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(MMDET_PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"
	$(PY) -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation -d $(MMDET_VENV)/mmcv onedl-mmcv==2.3.6
	tar -xzf $(MMDET_VENV)/mmcv/onedl_mmcv-2.3.6.tar.gz -C $(MMDET_VENV)/mmcv --strip-components 1
	@# Its setup.py asks for C++17, which the headers of PyTorch 2.14 refuse.
	sed -i 's/c++17/c++20/' $(MMDET_VENV)/mmcv/setup.py
	MMCV_WITH_OPS=1 MAX_JOBS=$(WORKERS) $(MMDET_PY) -m pip install --quiet --ignore-installed --no-deps --no-build-isolation ./$(MMDET_VENV)/mmcv
	$(MMDET_PY) -m pip install --quiet --ignore-installed --no-deps onedl-mmdetection==3.5.1 imageio imaug six terminaltables
	@touch $@

# Each target works from a bare clone: the environment is made on first use, in .venv.
VENV   := .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
ARGS   ?=
RUN    := $(VENV)/bin/python
OPENMMLAB := .venv-openmmlab

.DEFAULT_GOAL := help
.PHONY: help demo test test-openmmlab fuzz lint gpu-check gpu-bundle clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'ARGS="..." is passed on to what demo and the tests run; PYTHON=... chooses the interpreter.'

demo: $(VENV)/.installed ## train on a small invented world and segment with free words
	@# threads that wait leave their core to the process that reads the data
	OMP_WAIT_POLICY=PASSIVE $(RUN) demo/run_demo.py $(ARGS)

test: $(VENV)/.installed ## run the tests, e.g. ARGS="-k launch -x"
	$(RUN) -m pytest -q $(if $(ARGS),$(ARGS),tests)

test-openmmlab: $(OPENMMLAB)/.installed ## run the tests with OpenMMLab's own distribution; mmcv compiles first
	$(OPENMMLAB)/bin/python -m pytest -q $(if $(ARGS),$(ARGS),tests)

fuzz: $(VENV)/.installed ## attack what reads files and requests, e.g. ARGS="shards --seconds 3600 --seed 7"
	$(RUN) tests/fuzz $(if $(ARGS),$(ARGS),--all)

lint: $(VENV)/.installed ## check style, formatting and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy pgseg_mm pgseg_command.py

gpu-check: $(VENV)/.installed ## prove training and prediction on a GPU, in 8 minutes; writes docs/benchmarks/gpu.md
	$(RUN) -m benchmarks.gpu_check $(ARGS)

gpu-bundle: $(VENV)/.installed ## collect what gpu-check needs on a machine without a network, into gpu_bundle/
	$(RUN) -m benchmarks.gpu_bundle $(ARGS)

clean: ## remove caches and build products; the environments stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

$(VENV)/.installed: setup.py $(wildcard requirements/*.txt)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --no-compile -c requirements/constraints.txt -e '.[onedl,tests]'
	@# on all cores, where pip would take one; libraries' tests and templates are of no use here
	$(RUN) -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib pgseg_mm || true
	touch $@

# mmcv is built with what is there: torch, and a setuptools that still has pkg_resources.
# mmdet is for the tests of what needs it; the other distribution's mmcv has no compiled operations.
$(OPENMMLAB)/.installed: setup.py $(wildcard requirements/*.txt)
	test -x $(OPENMMLAB)/bin/python || $(PYTHON) -m venv $(OPENMMLAB)
	$(OPENMMLAB)/bin/python -m pip install -c requirements/openmmlab_constraints.txt \
		torch torchvision setuptools wheel ninja psutil
	$(OPENMMLAB)/bin/python -m pip install -c requirements/openmmlab_constraints.txt \
		--no-build-isolation -e '.[openmmlab,tests]' mmdet
	touch $@

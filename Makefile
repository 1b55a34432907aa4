# Everything runs in .venv, which the targets make themselves: Python 3.11, pip and make are enough.

PYTHON ?= python3
VENV := .venv
DATA ?= digits
DEMO ?= demo
WORKERS ?= auto

# pip is run from outside the environment, so that no `ensurepip` is needed to make one.
PIP = $(PYTHON) -m pip --python $(VENV)/bin/python
RUN = $(VENV)/bin/python

# Each worker computes on one thread: two that use every core wait for each other. Threads that
# some tests ask for sleep while they wait, and leave the cores to the other workers.
TEST = SCIPY_ARRAY_API=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE MPLBACKEND=Agg $(RUN) -m pytest -n $(WORKERS) --dist worksteal
# A simulated GPU is there for the whole process or not at all, so its tests have one of their own.
TEST_DEVICE = $(TEST) -p tests.simulated_cuda.plugin tests/simulated_cuda $(wildcard tests/hardware/*device.py)

.DEFAULT_GOAL := help
.PHONY: help demo test test-device test-fast gpu lint docs dist clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)/with-plot,progress  ## train, print a table, draw pictures in demo/ (DATA=digits or mnist)
	$(RUN) examples/demo.py --data $(DATA) --output $(DEMO)

test: $(VENV)/with-test  ## run every test
	$(TEST_DEVICE)
	$(TEST)

test-device: $(VENV)/with-test  ## run those on a simulated GPU, which needs g++
	$(TEST_DEVICE)

test-fast: $(VENV)/with-test  ## run the tests that take seconds
	$(TEST) -m "not slow"

gpu:  ## test and measure on a GPU with PYTHON's own torch; the report goes to gpu/
	$(PYTHON) -m benchmarks.gpu --output gpu

lint: $(VENV)/with-dev  ## check style, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/with-docs  ## build the documentation in docs/_build/html
	$(RUN) -m sphinx -W --keep-going -b html docs docs/_build/html

dist: $(VENV)/with-setuptools  ## build sdist and wheel in dist/, try the wheel in a fresh environment
	PYTHON=$(PYTHON) $(RUN) release/dist.py

clean:  ## remove the environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info docs/_build docs/auto_examples docs/*/generated demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of extras: only a change of the two files that decide what they hold makes
# `make` install again.
$(VENV)/with-%: pyproject.toml constraints.txt | $(VENV)/with-setuptools
	$(PIP) install --no-build-isolation -c constraints.txt -e ".[$*]"
	@touch $@

$(VENV)/with-setuptools: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "sknn_deep needs Python 3.11 or newer; name one with 'make PYTHON=...'"; exit 1; }
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PIP) install -c constraints.txt setuptools
	@touch $@

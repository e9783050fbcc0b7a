# Each target creates .venv if it is missing, so no preparation is necessary.
PYTHON ?= python3
# The backend of Keras: tensorflow, jax or torch. Each has an environment of its own.
CHOSEN := $(or $(BACKEND),$(KERAS_BACKEND))
BACKEND ?= $(or $(KERAS_BACKEND),tensorflow)
ifeq ($(filter tensorflow jax torch,$(BACKEND)),)
$(error BACKEND must be tensorflow, jax or torch. Received: BACKEND=$(BACKEND))
endif
export KERAS_BACKEND := $(BACKEND)
ifeq ($(BACKEND),tensorflow)
VENV := .venv
# A CUDA build if there is an NVIDIA driver. tensorflow-cpu exists only for Linux.
EXTRA := $(shell if nvidia-smi >/dev/null 2>&1; then echo gpu; \
	elif [ "$$(uname -s)" = Linux ]; then echo cpu; else echo tensorflow; fi)
else
VENV := .venv-$(BACKEND)
EXTRA := $(BACKEND)
endif
BIN := $(VENV)/bin
OLDEST := .venv-oldest

# The tiers of the tests: markers that tests/conftest.py sets by folder.
STATIC := -m 'static'
BASIC := -m 'not static and not thorough'
THOROUGH := -m 'thorough'
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo check test test-rest test-oldest test-paths coverage bench bench-gpu pictures results clean

demo: $(VENV)/.demo ## train on real data, print the results and where to find the figures
	$(BIN)/python -m kbn demo

check: $(VENV)/.test ## lint, types, documents: seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q $(STATIC)

# On another backend, the files that tests/support/on_backend.py lists.
test: $(if $(filter tensorflow,$(BACKEND)),check,$(VENV)/.test) ## before a commit: at least one test of each behavior, 5 minutes on 2 cores
	$(BIN)/python -m pytest $(BASIC) $(SIDE_BY_SIDE)

test-rest: $(VENV)/.test ## all other tests, half an hour
	$(BIN)/python -m pytest $(THOROUGH) $(SIDE_BY_SIDE)

test-oldest: $(OLDEST)/.test ## the tests of `make test` with the oldest versions that setup.cfg allows
	$(OLDEST)/bin/python -m pytest $(BASIC) $(SIDE_BY_SIDE)

coverage: $(VENV)/.test ## all tests, and which branches they take: at least 95 %
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest $(SIDE_BY_SIDE)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# The layer's tests.
LAYER := tests/layers tests/backend/test_replicas.py tests/tools

test-paths: $(VENV)/.test ## the layer's tests without the fused kernel, then without kbn's kernels
	KBN_FUSED=off $(BIN)/python -m pytest $(LAYER)
	KBN_NATIVE=0 $(BIN)/python -m pytest $(LAYER)

bench: $(VENV)/.test ## the layer side by side with Keras (and torch), and the callbacks, into docs/benchmarks*.md
	$(BIN)/python -m benchmarks

# Without BACKEND=..., it takes the first library of .venv that finds a GPU.
bench-gpu: $(VENV)/.test ## the layer and the callbacks on a GPU, in 8 minutes, into docs/benchmarks-gpu-*.md
	KERAS_BACKEND=$(CHOSEN) $(BIN)/python -m benchmarks.gpu

pictures: $(VENV)/.test ## the README's picture of the tab, from the demonstration
	$(BIN)/python -m docs.make_pictures

results: $(VENV)/.test ## the experiments of docs/results.md, an hour
	$(BIN)/python -m docs.make_results

clean:
	rm -rf .venv .venv-* build dist runs *.egg-info kbn/_native*

$(VENV)/.demo: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRA),demo]'
	touch $@

$(VENV)/.test: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRA),demo,test]'
	touch $@

$(OLDEST)/.test: setup.cfg .ci/oldest.py
	$(PYTHON) -m venv $(OLDEST)
	$(PYTHON) .ci/oldest.py >$(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRA),demo,test]' \
	  -c $(OLDEST)/constraints.txt
	touch $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kbn needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing $(EXTRA) and the rest into $(VENV); this takes a minute or two."

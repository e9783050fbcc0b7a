# Each target creates .venv where it is absent; nothing has to be done before.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The backend: a CUDA build where an NVIDIA driver answers; tensorflow-cpu exists for Linux only.
BACKEND := $(shell if nvidia-smi >/dev/null 2>&1; then echo gpu; \
	elif [ "$$(uname -s)" = Linux ]; then echo cpu; else echo tensorflow; fi)

.PHONY: demo test test-paths bench pictures results clean

demo: $(VENV)/.demo ## train on real data, show the result and where to look
	$(BIN)/python -m kbn demo

test: $(VENV)/.test ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The layer's tests.
LAYER := tests/layers tests/backend/test_replicas.py tests/tools

test-paths: $(VENV)/.test ## the layer's tests with the fused kernel forced off, and on
	KBN_FUSED=off $(BIN)/python -m pytest $(LAYER)
	KBN_FUSED=on $(BIN)/python -m pytest $(LAYER)

bench: $(VENV)/.test ## the layer side by side with Keras (and torch), and the hooks, into docs/benchmarks*.md
	$(BIN)/python -m benchmarks

pictures: $(VENV)/.test ## the README's picture of the tab, from the demonstration
	$(BIN)/python -m docs.make_pictures

results: $(VENV)/.test ## the experiments of docs/results.md, an hour
	$(BIN)/python -m docs.make_results

clean:
	rm -rf $(VENV) build dist runs *.egg-info

$(VENV)/.demo: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(BACKEND),demo]'
	touch $@

$(VENV)/.test: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(BACKEND),demo,test]'
	touch $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kbn needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing TensorFlow ($(BACKEND)) and the rest into $(VENV); this takes a minute or two."

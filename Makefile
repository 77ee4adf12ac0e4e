# make demo, test, test-end-to-end, test-all, lint, docs, bench. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where Python may not keep compiled modules, as in some containers, each of the tests' processes
# would compile all of JAX again.
export PYTHONDONTWRITEBYTECODE :=
# The tests of a file stay in one process: they share what has been compiled and prepared.
PARALLEL := -n auto --dist loadfile

.PHONY: demo test test-end-to-end test-all test-lowest lint docs bench clean

demo: $(VENV)/demo
	$(BIN)/genmod train article_vae
	$(BIN)/genmod report runs/article_vae/seed-0

# What one needs to trust a change. `make test LINT=` leaves the lint out, and
# OPTIONS are pytest's.
LINT := lint
OPTIONS ?=
test: $(LINT) $(VENV)/dev
	$(BIN)/pytest $(PARALLEL) -m "not slow and not end_to_end and not costly" $(OPTIONS)

# Notebooks, the commands of README and docs, processes and what may befall them; costly tests.
test-end-to-end: $(VENV)/dev
	$(BIN)/pytest $(PARALLEL) -m "(end_to_end or costly) and not fused and not slow"
	GENMOD_TESTS_XLA=fused $(BIN)/pytest -m "fused and not slow" \
		$$(grep -rl "mark.fused" tests --include='test_*.py')

test-all: lint
	GENMOD_TESTS_XLA=usual $(BIN)/pytest $(PARALLEL)

# The oldest versions that setup.cfg admits.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python \
		--resolution lowest-direct --editable .
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --editable '.[dev]'
	$(VENV)-lowest/bin/pytest $(PARALLEL) -m "not slow and not end_to_end"

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

docs: $(VENV)/docs
	rm -rf docs/_build
	$(BIN)/sphinx-build -W --keep-going docs docs/_build/html

# Peers are optional: PEERS=python of an environment with torch and keras.
bench: $(VENV)/demo
	$(BIN)/python experiments/benchmarks/article_vae.py $(if $(PEERS),--peers-python $(PEERS))

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "genmod needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)

# Modules are compiled when they are first imported: most of what is installed never is.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-compile --editable

$(VENV)/demo: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) .
	touch $@

$(VENV)/dev: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) '.[dev]'
	touch $(VENV)/demo $@

$(VENV)/docs: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) '.[docs]'
	touch $(VENV)/demo $@

clean:
	rm -rf $(VENV) docs/_build docs/api docs/notebooks

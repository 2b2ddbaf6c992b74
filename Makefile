# `make demo` and `make test` need Python >= 3.11 with venv, and nothing else: they make .venv and install into it.
PYTHON ?= python3
BIN := .venv/bin
# Half of the tests, in their order, for each of two cores; who is done first takes half of what the other has left.
WORKERS := -n 2 --dist worksteal

.PHONY: demo test test-all lint docs clean

demo: .venv/installed
	$(BIN)/kvae demo --out kvae-demo

test: .venv/installed
	$(BIN)/python -m pytest $(WORKERS)

test-all: .venv/installed
	$(BIN)/python -m pytest $(WORKERS) -m "slow or not slow"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages are in build/docs; what they are made of besides docs/*.md is generated there, and ignored by git.
docs: .venv/installed
	$(BIN)/sphinx-build -W --keep-going -E -q -b html -d build/doctrees docs build/docs

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info kvae-demo
	rm -rf docs/api/kvae*.rst docs/tutorials/*.ipynb docs/pictures docs/project

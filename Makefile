# make demo: from nothing to a generated project that has trained its smoke epoch.   make test: all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= auto

.PHONY: demo test lint clean

demo: $(VENV)/ready
	rm -rf build/demo
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cookiecutter --no-input --output-dir build . project_name=Demo

test: $(VENV)/ready
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One call of pip for torch and torchvision together: they only work in matching versions.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install ".[project,test]"
	touch $@

clean:
	rm -rf build $(VENV)

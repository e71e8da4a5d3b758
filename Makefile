# make demo: from nothing to a generated project that has trained its smoke epoch.   make test: all tests.
# make example: the rendered project to read, in example/, anew.
# make docs: the documentation, in build/docs; warnings are errors.
# make soak: far more kills and damaged files than make test tries; SOAK=100 for a night.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= auto
SOAK ?= 10

.PHONY: demo example docs test soak lint clean

demo: $(VENV)/demo
	rm -rf build/demo
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cookiecutter --no-input --output-dir build . project_name=Demo

example: $(VENV)/ready
	$(BIN)/python -B tests/example_project.py

docs: $(VENV)/ready
	$(BIN)/mkdocs build --strict

test: $(VENV)/ready
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

soak: $(VENV)/ready
	SOAK=$(SOAK) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -rP tests/test_faults.py tests/test_regenerate.py

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One call of pip for torch and torchvision together: they only work in matching versions.
$(VENV)/demo $(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install ".[$(EXTRAS)]"
	touch $@

$(VENV)/demo: EXTRAS := project
$(VENV)/ready: EXTRAS := project,test,docs

clean:
	rm -rf build $(VENV)

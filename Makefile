# Both targets do all their own set-up: they need Python 3.11 or later, make, and a package index.
PYTHON ?= python3
VENV := .venv

.PHONY: demo test clean

demo: $(VENV)/demo
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" examples/shapes.sh runs/demo

test: $(VENV)/test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(VENV)/bin/pip install --constraint constraints.txt --editable .
	touch $@

$(VENV)/test: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(VENV)/bin/pip install --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/demo

clean:
	rm -rf $(VENV) runs dist

# All targets do all their own set-up: they need Python 3.11 or later, make, and a package index.
PYTHON ?= python3
VENV := .venv

.PHONY: demo paper test check clean

demo: $(VENV)/demo
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" examples/shapes.sh runs/demo

paper: $(VENV)/demo
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" examples/paper.sh runs/paper

test: $(VENV)/test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest

# For the loop while working: what needs no model and starts no process.
check: $(VENV)/test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest --quick

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

# Every target creates .venv if necessary, so each works on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test quick lint clean

demo: .venv/installed
	$(BIN)/python examples/demo.py
	@echo "To use the command tempozoo: source $(BIN)/activate"

# Two processes with one thread each are faster than one with two. --dist loadfile runs the tests of a file in one process.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# the tests that cover most lines in about a minute, see tests/support/select_quick.py
quick: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --quick

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv runs data

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

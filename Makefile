# Every target creates .venv if necessary, so each works on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo localize test quick lint bench docs clean

demo: .venv/installed
	$(BIN)/python examples/demo.py
	@echo "To use the command tempozoo: source $(BIN)/activate"

# find actions in generated untrimmed videos, offline; about five minutes on two cores
localize: .venv/installed
	$(BIN)/python examples/localize.py

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

# An idle machine is required. Each script writes the CSV files from which the last line writes docs/performance.md.
bench: .venv/installed
	$(BIN)/python benchmarks/startup.py --csv docs/startup.csv
	$(BIN)/python benchmarks/loading.py --csv docs/loading.csv
	$(BIN)/python benchmarks/operators.py --csv docs/operators.csv
	$(BIN)/python benchmarks/networks.py --csv docs/networks.csv
	$(BIN)/python benchmarks/networks.py --compile --csv docs/networks_compiled.csv
	$(BIN)/python benchmarks/training.py --csv docs/training.csv
	$(BIN)/python benchmarks/training.py --layers tada2d_r50 --depth 2 --csv docs/layers.csv
	$(BIN)/python benchmarks/allocators.py --csv docs/allocators.csv
	$(BIN)/python benchmarks/scaling.py --csv docs/scaling.csv
	$(BIN)/python benchmarks/floor.py --twins --csv docs/floor.csv
	$(BIN)/python benchmarks/performance_page.py

# the web site of the documentation; a link to a missing page or heading is an error
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html. The search needs a web server: python3 -m http.server --directory site"

clean:
	rm -rf .venv runs data site

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@echo "Installing tempozoo and its dependencies, about 7 GB; this takes minutes and prints nothing"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

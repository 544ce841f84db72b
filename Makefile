# `make lab` opens the course in JupyterLab, `make check` runs the quick tests, `make test` all of them,
# `make book` makes the site.
# Both create the environment they need. PYTHON chooses the interpreter (3.11 or later).

PYTHON ?= python3
VENV   ?= .venv
OLDEST ?= .venv-oldest
ROOT   := $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

.PHONY: lab lint check test gpu oldest notebooks benchmarks book clean

lab: $(VENV)/installed
	$(VENV)/bin/jupyter lab $(ROOT) --notebook-dir=notebooks --LabApp.default_url=/lab/tree/start.ipynb

# One worker more than cores; the tests of a group share what is costly to make, and so a worker. The longest groups
# come first: tests/conftest.py.
SPREAD := --numprocesses auto --dist loadgroup --no-loadscope-reorder
PYTEST := $(VENV)/bin/python -m pytest $(SPREAD)

lint: $(VENV)/installed-test
	@[ -d tests ] || { echo "This edition has no tests. $(VENV)/bin/course check checks your answers."; exit 1; }
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

check: lint
	$(PYTEST) -m "not slow and not notebooks and not browser and not gpu"

test: lint
	$(PYTEST)

gpu: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -m gpu

oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest $(SPREAD)

notebooks: $(VENV)/installed
	$(VENV)/bin/python benchmarks/notebooks.py --write

book: $(VENV)/installed-book
	$(VENV)/bin/course book -o dist/book

benchmarks: $(VENV)/installed
	for file in benchmarks/*.py; do $(VENV)/bin/python $$file || exit 1; done
	$(VENV)/bin/python -m tests.mutants

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
		"The course needs Python 3.11 or later; $(PYTHON) is older. Name another: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(VENV)/bin/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/bin/python pyproject.toml
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/installed $(VENV)/installed-book

$(VENV)/installed-book: $(VENV)/bin/python pyproject.toml
	$(VENV)/bin/python -m pip install --quiet --editable '.[book]'
	touch $@ $(VENV)/installed

# The oldest version of each package that pyproject.toml allows, for `make oldest`. Python 3.11 or 3.12: these versions
# have no wheels for later ones.
$(OLDEST)/installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	sed -n 's/.*"\([a-z][a-z0-9-]*\)>=\([0-9.]*\)[",].*/\1==\2/p' pyproject.toml > $(OLDEST)/bounds.txt
	$(OLDEST)/bin/python -m pip install --quiet --editable '.[test]' --constraint $(OLDEST)/bounds.txt
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) dist test-artefacts

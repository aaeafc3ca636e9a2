# make demo    generate a data set, train on it and report: a few minutes on a CPU; again: go on, or show the result
# make test    lint, type check and test
# make lint    what of `make test` takes seconds; make format repairs what it can
# make clean   remove the environment and all caches; runs/ and data/ stay
#
# Each makes .venv first when it is missing or the requirements have changed.  That takes about 7 GB, CUDA included.

PYTHON ?= python3.11
BIN := .venv/bin
# Made last, so that an interrupted installation has none and goes on at the next call.
STAMP := .venv/.installed

.PHONY: demo test lint format clean

demo: $(STAMP)
	$(BIN)/python -m train demo --run.resume

test: lint
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is no Python 3.11 or later: install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; } >&2
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@

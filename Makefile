# Two commands matter: `make run` serves, `make test` passes the tests. Both set up what they need first.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=
# Tests are shared out file by file: the long ones come first in the tree. ARGS="-n 0" runs them in one process.
WORKERS ?= --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run test check fix bench docs lock clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# uv installs the hashed lock in seconds; pip does the same where only pip knows the package mirror. Both compile what
# they install (pip by itself): the first start need not.
define install
	@echo "Installing $(1) (once)..."
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r $(1) \
	 || $(BIN)/python -m pip install --quiet --require-hashes -r $(1)
endef

$(VENV)/.created:
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.setup: $(VENV)/.created requirements/setup.txt requirements/run.txt requirements/run.in pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/setup.txt
	$(call install,requirements/run.txt)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup requirements/dev.txt
	$(call install,requirements/dev.txt)
	@touch $@

setup: $(VENV)/.setup  ## Make .venv and install the locked requirements

setup-dev: $(VENV)/.setup-dev  ## The same, with what tests and checks need

run: setup  ## Start the server (ARGS="--port 9000" for options)
	@exec $(BIN)/parley serve $(ARGS)

test: setup-dev  ## Run all tests (ARGS="-k name" for some)
	@$(BIN)/python -m compileall -q api rag
	@$(BIN)/python -m pytest $(WORKERS) $(ARGS)

check: setup-dev  ## Lint, format, types, import rules, docs in step with code
	@$(BIN)/ruff check api rag bench tests requirements
	@$(BIN)/ruff format --check api rag bench tests requirements
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_imports.py tests/unit/test_docs.py

fix: setup-dev  ## Lint and format in place
	@$(BIN)/ruff check --fix api rag bench tests requirements
	@$(BIN)/ruff format api rag bench tests requirements

bench: setup-dev  ## Measure everything; tables on screen, JSON in bench/results
	@$(BIN)/python -m bench $(ARGS)

docs: setup-dev  ## Write the generated pages of docs/
	@$(BIN)/python -m api.docs_reference

lock: setup-dev  ## Lock requirements/*.in with hashes
	@for name in setup run dev; do $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header requirements/$$name.in -o requirements/$$name.txt; done

clean:  ## Remove what the other targets made, but no data folder
	@rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The commands of the project. Each sets up `.venv` first if needed.
#   PYTHON=python3.12 chooses the interpreter of `.venv`; otherwise the first suitable one below.

FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c '$(FITS)' 2>/dev/null && echo $$name && break; done)
VENV := .venv/bin
CHROMIUM = $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

# Two processes, each with whole files in their order: tests that end vLLM in their process come after those of training.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format clean

help: ## list the commands
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: ## make .venv and install the pinned stack (the other commands do so, too; repeating it is free)
	@"$(PYTHON)" -c '$(FITS)' 2>/dev/null || { printf '%s\n' 'set-up: no Python 3.11 to 3.13 found' '  where: PATH, or PYTHON=' \
		'  hint:  install one, or pass it: make demo PYTHON=/path/to/python3.12' >&2; exit 2; }
	@"$(PYTHON)" cluster/install.py

demo: setup ## the whole study on the embedded model: table, figure and report in runs/demo/report
	@$(VENV)/python -m pipeline doctor
	@$(VENV)/python -m pipeline demo

test: setup ## the whole test suite
ifeq ($(CHROMIUM),)
	@echo "no Chromium found: skipping the tests marked 'browser'"
endif
	@$(VENV)/python -m pytest $(PARALLEL) $(if $(CHROMIUM),,-m 'not browser')

check: setup ## lint, format, types, architecture
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy
	@$(VENV)/lint-imports

format: setup ## format the code
	@$(VENV)/ruff check --fix .
	@$(VENV)/ruff format .

clean: ## remove .venv and all caches; runs/ stays
	rm -rf .venv .set-up .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything a checkout needs. `make help` lists the targets; each does what it still has to.

PYTHON := .venv/bin/python
CONFIG ?= config.toml

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run test bench lint clean programs

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

install: .venv/installed  ## Make .venv with the streamedge command in it

run: .venv/installed  ## Run the edge with config.toml (or CONFIG=FILE)
	@$(PYTHON) -m compileall -q streamedge
	.venv/bin/streamedge serve --config $(CONFIG)

test: lint programs  ## Install what the tests need, check the code, run all tests
	PYTHONASYNCIODEBUG=1 $(PYTHON) -X dev -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: .venv/installed-dev  ## Check style, types and the direction of imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/installed-dev programs  ## Measure this edge beside nginx
	@$(PYTHON) -m compileall -q streamedge
	$(PYTHON) -m bench

clean:  ## Remove what was made here, the cache in var/ apart
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

programs:
	@tools/install_programs.sh

.venv/bin/python:
	tools/make_venv.sh .venv

# A stamp younger than pyproject.toml says that nothing is left to install.
.venv/installed: pyproject.toml | .venv/bin/python
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable .
	@$(PYTHON) -m compileall -q streamedge
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/installed $@

# The tasks of a checkout. `make help` lists them; each task installs what it needs.

PYTHON := .venv/bin/python
CONFIG ?= config.toml

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run test test-fast bench lint reference clean programs

# Tests of pure code and of the cache: without an S3 server, ffmpeg or edge processes.
FAST_TESTS := tests/access tests/cache tests/config tests/coordination tests/ops tests/media/flv \
	tests/delivery/rtmp/protocol tests/delivery/http/request tests/delivery/http/response \
	tests/test_cache_keys.py tests/test_http_date.py tests/test_memo.py tests/test_project.py \
	tests/test_spans.py

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*  ## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

install: .venv/installed  ## Create .venv with the streamedge command

run: .venv/installed  ## Run the edge with config.toml (or CONFIG=FILE)
	@$(PYTHON) -m compileall -q streamedge
	.venv/bin/streamedge serve --config $(CONFIG)

test-fast: lint  ## Check the code, run the tests of pure code and the cache (under a minute)
	$(PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile $(FAST_TESTS)

test: lint programs  ## Install the programs that tests need, check the code, run all tests
	PYTHONASYNCIODEBUG=1 $(PYTHON) -X dev -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: .venv/installed-dev  ## Check style, types and import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/installed-dev programs  ## Compare the edge with nginx
	@$(PYTHON) -m compileall -q streamedge
	$(PYTHON) -m bench

reference: .venv/installed  ## Write the generated parts of docs/reference/
	$(PYTHON) tools/write_reference.py

clean:  ## Remove everything that make created; the cache in var/ stays
	rm -rf .venv .node build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

programs:
	@tools/install_programs.sh

.venv/bin/python:
	tools/make_venv.sh .venv

# If this file is newer than pyproject.toml, everything is installed.
.venv/installed: pyproject.toml | .venv/bin/python
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[media]'
	@$(PYTHON) -m compileall -q streamedge
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/installed $@

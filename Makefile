.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# `mlflow run --env-manager=local` starts the `python` that it finds first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# MLflow's own commands would tell its makers that they are used.
export MLFLOW_DISABLE_TELEMETRY ?= true

help: ## show what can be done
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## / - /'

install: $(BIN)/.installed ## make .venv and install catdog into it; LOCKED=1: as requirements.lock says

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "catdog needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(if $(LOCKED),--constraint requirements.lock) --editable '.[dev]'
	@touch $@

lock: install ## write requirements.lock: the versions that are installed now
	@mkdir -p build
	python -m pip freeze --exclude-editable > build/installed.txt
	uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --extra dev \
		--constraint build/installed.txt --no-header --no-annotate --output-file requirements.lock

train: install ## train: photos with a Kaggle token, drawn pictures without
	mlflow run . --env-manager=local -P epochs=10

test: install ## run the tests, but the slow ones
	python -m pytest --numprocesses 2 --dist loadfile -m 'not slow'

test-all: install ## run all tests: Spark, PostgreSQL, browsers, real photos and every kill, too
	python -m pytest --numprocesses 2 --dist loadfile

ui: install ## compare the runs in a browser
	@echo 'The runs: http://127.0.0.1:5000/#/experiments/0/runs?workflowType=machine_learning'
	mlflow ui

lint: install ## check the code's form
	ruff check .
	ruff format --check .
	lint-imports

types: install ## check the types
	mypy

coverage: install ## run the tests and say which lines they leave out
	python -m pytest --cov --cov-report=term --cov-report=html

.PHONY: help install lock train test test-all ui lint types coverage

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# ---- what you may set on the make line: NAME="value" ----

## use case: a directory of kustomize/overlays
OVERLAY ?= demo
## base model instead of the recipe's: a directory, or a hub name on this machine
MODEL ?=
## training rows instead of the recipe's: a .json, .jsonl, .csv or .parquet file
DATA ?=
## validation rows to go with DATA; without them a tenth of DATA is held out
VALIDATION_DATA ?=
## other recipe values for this run, separated by spaces: "lora_r=16 learning_rate=1.0e-4"
SET ?=
## processes on this machine; empty: decided from its processor, and said
NPROC ?=
## threads of each process; empty: its share of the cores
THREADS ?=
## stop after this stage: check-data, before, train, merge, after or report
UNTIL ?=
## name of the run; empty: overlay and a hash of recipe, model, data and processes
RUN ?=
## directory of all runs
RUNS ?= runs
## YES=1 deletes without a question
YES ?=
## Python to make .venv with, 3.11 or later
PYTHON3 ?= python3
## package index with the torch build to install; empty: pip's own configuration
TORCH_INDEX ?=
## folder of wheels: make wheels fills it, the installation then needs no network
WHEELS ?=
## directory of the test equipment; tests that need it are skipped by name where it is absent
SHARED ?= ../shared

# Recipes read these from the environment, in quotes: a value with spaces stays one value.
export OVERLAY MODEL DATA VALIDATION_DATA SET NPROC THREADS UNTIL RUN RUNS YES PYTHON3 TORCH_INDEX WHEELS SHARED

VENV := .venv
BASE := $(VENV)/.installed-base
DEV := $(VENV)/.installed-dev
PYTHON := $(VENV)/bin/python
PIP_TOOLS := pip-tools==7.6.2
SHELL_SCRIPTS := .ci/run scripts/venv.sh
# Values of run and check-data; an empty variable gives no flag, and SET alone is split at spaces (set -f: no globbing).
RUN_FLAGS = --overlay "$$OVERLAY" $${MODEL:+--model "$$MODEL"} $${DATA:+--data "$$DATA"} \
	$${VALIDATION_DATA:+--validation-data "$$VALIDATION_DATA"} $${NPROC:+--nproc "$$NPROC"} \
	$${THREADS:+--threads "$$THREADS"} $${RUN:+--run "$$RUN"} --runs-dir "$$RUNS" $${SET:+--set $$SET}

.PHONY: help
help: ## Show this help.
	@awk -f scripts/help.awk $(MAKEFILE_LIST)

##@ Fine-tune on this machine

.PHONY: run
run: $(BASE) ## The whole job: check the data, train, merge, prove, evaluate, report. The same command resumes.
	@set -f; exec $(PYTHON) -m scripts.run $(RUN_FLAGS) $${UNTIL:+--until "$$UNTIL"}

.PHONY: check-data
check-data: $(BASE) ## Show what the model would see of the rows, before any training.
	@set -f; exec $(PYTHON) -m scripts.run $(RUN_FLAGS) --until check-data

##@ Runs

.PHONY: runs
runs: $(BASE) ## List the runs on this machine.
	@$(PYTHON) -m scripts.runs list --runs-dir "$$RUNS"

.PHONY: report
report: $(BASE) ## Write the report of a run again: RUN=name.
	@$(PYTHON) -m train.report --run "$$RUNS/$${RUN:?give RUN=name, make runs lists the names}"

.PHONY: delete-run
delete-run: $(BASE) ## Delete a run for good, after a question: RUN=name, YES=1 for no question.
	@$(PYTHON) -m scripts.runs delete "$$RUN" $$(test "$$YES" != 1 || echo --yes) --runs-dir "$$RUNS"

##@ Check

.PHONY: test
test: lint ## Formatting, linters, generated files, unit tests, every bad input, the demo end to end (minutes).
	$(PYTHON) -m pytest -m "not faults"

.PHONY: test-faults
test-faults: $(DEV) ## Kills at random moments, one recipe on several layouts of processes, use cases (many minutes).
	$(PYTHON) -m pytest -m faults

.PHONY: lint
lint: $(DEV) ## Formatting and linters only.
	$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check .
	$(PYTHON) -m yamllint --strict .
	$(VENV)/bin/shellcheck $(SHELL_SCRIPTS)

.PHONY: format
format: $(DEV) ## Bring Python into the house's form.
	$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

##@ Make again what is committed

.PHONY: parameters
parameters: $(BASE) ## docs/parameters.md, from schemas/train.schema.json.
	$(PYTHON) -m scripts.parameters

.PHONY: lock
lock: $(BASE) ## requirements*.txt, from requirements*.in, with the hash of every wheel (minutes).
	$(PYTHON) -m pip install --quiet "$(PIP_TOOLS)"
	$(PYTHON) -m scripts.lock

.PHONY: demo-data
demo-data: $(BASE) ## The demo's rows: demo/data.
	$(PYTHON) -m demo.make_data

.PHONY: demo-model
demo-model: $(BASE) ## The demo's base model: demo/model (pre-trained from nothing; long).
	$(PYTHON) -m demo.make_model

##@ This checkout

.PHONY: venv
venv: $(BASE) ## Install the packages into .venv; every other target does so by itself.
	@echo "$(VENV) is up to date"

.PHONY: clean-venv
clean-venv: ## Remove .venv.
	rm -rf $(VENV)

.PHONY: wheels
wheels: $(BASE) ## Fill the folder WHEELS=dir for machines without network of this kind.
	scripts/venv.sh download

.PHONY: hooks
hooks: $(DEV) ## Let git run the linters before each commit.
	$(PYTHON) -m pre_commit install

# The stamps are written last, so an interrupted installation goes on, and a changed lock is installed.
$(BASE): requirements-torch.txt requirements.txt
	@scripts/venv.sh base && touch $@

$(DEV): requirements-dev.txt $(BASE)
	@scripts/venv.sh dev && touch $@

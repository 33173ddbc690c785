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
## registry and path that make push brings the image to: host/path
REGISTRY ?=
## REGISTRY_INSECURE=1: the registry speaks plain HTTP
REGISTRY_INSECURE ?=
## Ansible inventory of the nodes that get the image; empty: ANSIBLE_INVENTORY, or ansible/inventory.yml
INVENTORY ?=
## only these nodes of the inventory, as Ansible's --limit
LIMIT ?=
## CHECK=1 says what make push or image-remove would do, and changes nothing
CHECK ?=
## FORCE=1: image-remove takes the image although containers use it
FORCE ?=
## further flags of ansible-playbook, such as "--ask-become-pass -v"
ANSIBLE_FLAGS ?=
## YES=1 deletes without a question
YES ?=
## Python to make .venv with, 3.11 or later
PYTHON3 ?= python3
## package index with the torch build to install; empty: pip's own configuration
TORCH_INDEX ?=
## folder of wheels: make wheels fills it, the installation then needs no network
WHEELS ?=
## which image: cpu, intel or cuda
TARGET ?= cpu
## what builds and runs the image: buildah, podman or docker; empty: the first that is here
BUILDER ?=
## the image's base: a name with digest, or an archive, oci-archive:FILE; empty: the one in docker/Dockerfile
BASE_IMAGE ?=
## package index with oneCCL's torch binding, for TARGET=intel
ONECCL_INDEX ?=
## of the image's layers: zstd, or gzip for docker before 23
COMPRESSION ?= zstd
## more flags for the builder: "--network host"
BUILD_FLAGS ?=
## IN_IMAGE=1: make run and make check-data work inside the image, with nothing installed here but make and an engine
IN_IMAGE ?=
## directory of the test equipment; tests that need it are skipped by name where it is absent
SHARED ?= ../shared

# Recipes read these from the environment, in quotes: a value with spaces stays one value.
export OVERLAY MODEL DATA VALIDATION_DATA SET NPROC THREADS UNTIL RUN RUNS YES PYTHON3 TORCH_INDEX WHEELS SHARED
export REGISTRY REGISTRY_INSECURE INVENTORY LIMIT CHECK FORCE ANSIBLE_FLAGS
export TARGET BUILDER BASE_IMAGE ONECCL_INDEX COMPRESSION BUILD_FLAGS IN_IMAGE

VENV := .venv
BASE := $(VENV)/.installed-base
DEV := $(VENV)/.installed-dev
ANSIBLE := $(VENV)/.installed-ansible
PYTHON := $(VENV)/bin/python
PIP_TOOLS := pip-tools==7.6.2
SHELL_SCRIPTS := .ci/run scripts/venv.sh docker/entrypoint.sh docker/image-test.sh docker/os-packages.sh \
	docker/python-packages.sh
# Values of run and check-data; an empty variable gives no flag, and SET alone is split at spaces (set -f: no globbing).
RUN_FLAGS = --overlay "$$OVERLAY" $${MODEL:+--model "$$MODEL"} $${DATA:+--data "$$DATA"} \
	$${VALIDATION_DATA:+--validation-data "$$VALIDATION_DATA"} $${NPROC:+--nproc "$$NPROC"} \
	$${THREADS:+--threads "$$THREADS"} $${RUN:+--run "$$RUN"} --runs-dir "$$RUNS" $${SET:+--set $$SET}
# What runs the chain: .venv, or with IN_IMAGE=1 a container.
CHAIN = $(if $(filter 1,$(IN_IMAGE)),"$$PYTHON3" -m scripts.image_run chain,$(PYTHON) -m scripts.run)
CHAIN_NEEDS = $(if $(filter 1,$(IN_IMAGE)),,$(BASE))
# Values of the image's targets, which need no .venv: $PYTHON3 and its own library.
IMAGE = "$$PYTHON3" -m scripts.image
IMAGE_FLAGS = --target "$$TARGET" --compression "$$COMPRESSION" $${BUILDER:+--builder "$$BUILDER"} \
	$${BASE_IMAGE:+--base-image "$$BASE_IMAGE"} $${WHEELS:+--wheels "$$WHEELS"} \
	$${TORCH_INDEX:+--torch-index "$$TORCH_INDEX"} $${ONECCL_INDEX:+--oneccl-index "$$ONECCL_INDEX"} \
	--build-flags="$$BUILD_FLAGS"

# Values of push, image-check and image-remove.
PUSH_FLAGS = $${REGISTRY:+--registry "$$REGISTRY"} $$(test "$$REGISTRY_INSECURE" != 1 || echo --registry-insecure) \
	$${INVENTORY:+--inventory "$$INVENTORY"} $${LIMIT:+--limit "$$LIMIT"} $$(test "$$CHECK" != 1 || echo --check) \
	$$(test "$$FORCE" != 1 || echo --force) --ansible-flags="$$ANSIBLE_FLAGS"

.PHONY: help
help: ## Show this help.
	@awk -f scripts/help.awk $(MAKEFILE_LIST)

##@ Fine-tune on this machine

.PHONY: run
run: $(CHAIN_NEEDS) ## The whole job: check the data, train, merge, prove, evaluate, report. The same command resumes.
	@set -f; exec $(CHAIN) $(RUN_FLAGS) $${UNTIL:+--until "$$UNTIL"}

.PHONY: check-data
check-data: $(CHAIN_NEEDS) ## Show what the model would see of the rows, before any training.
	@set -f; exec $(CHAIN) $(RUN_FLAGS) --until check-data

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

##@ The image

.PHONY: image
image: ## Build the training image: build/oci and build/image.json. Unchanged inputs build nothing.
	@exec $(IMAGE) build $(IMAGE_FLAGS)

.PHONY: image-test
image-test: ## Run the image as user 1000, read-only, without network: sshd, mpirun, a fine-tune of some steps.
	@exec "$$PYTHON3" -m scripts.image_run test

.PHONY: image-base
image-base: ## Save its operating system as build/base.tar, the base of builds without network.
	@exec $(IMAGE) base $(IMAGE_FLAGS)

.PHONY: image-clean
image-clean: ## Remove build/ and the images that were built.
	@exec $(IMAGE) clean $${BUILDER:+--builder "$$BUILDER"}

##@ Bring the image to where it is needed

.PHONY: push
push: $(ANSIBLE) ## The image to REGISTRY=host/path, or straight to the nodes of INVENTORY=file. Only what is missing travels.
	@set -f; exec $(PYTHON) -m scripts.push push $(PUSH_FLAGS)

.PHONY: image-check
image-check: $(ANSIBLE) ## Say which nodes have the image; fails where one lacks it.
	@set -f; exec $(PYTHON) -m scripts.push check $(PUSH_FLAGS)

.PHONY: image-remove
image-remove: $(ANSIBLE) ## Take the image from the nodes, and what unfinished pushes left there.
	@set -f; exec $(PYTHON) -m scripts.push remove $(PUSH_FLAGS)

##@ Check

.PHONY: test
test: lint ## Formatting, linters, generated files, unit tests, every bad input, the demo end to end (minutes).
	$(PYTHON) -m pytest -m "not faults and not nodes and not image"

.PHONY: test-faults
test-faults: $(DEV) ## Kills at random moments, one recipe on several layouts of processes, use cases (many minutes).
	$(PYTHON) -m pytest -m faults

.PHONY: test-nodes
test-nodes: $(DEV) ## Push to real nodes, with faults: TUNEFLEET_TEST_INVENTORY, or the test equipment's testbed (minutes).
	@# Nodes, links and clocks are real here: what fails is tried once more by itself, and said; twice is broken.
	$(PYTHON) -m pytest -m nodes || $(PYTHON) -m pytest -m nodes --last-failed --last-failed-no-failures none

.PHONY: test-image
test-image: $(DEV) ## Build the image without network and run it: needs buildah, podman, mmdebstrap and root (minutes).
	$(PYTHON) -m pytest -m image

.PHONY: bench-push
bench-push: $(DEV) ## How long until the last of 8 nodes has an image, beside a copy loop and others (half an hour).
	$(PYTHON) -m tests.ansible.bench_push

.PHONY: lint
lint: $(DEV) ## Formatting and linters only.
	$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(PYTHON) -m yamllint --strict .
	cd ansible && ../$(VENV)/bin/ansible-lint -q -c ../.ansible-lint.yml
	$(VENV)/bin/shellcheck $(SHELL_SCRIPTS) && $(VENV)/bin/hadolint docker/Dockerfile

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

$(ANSIBLE): requirements-ansible.txt
	@scripts/venv.sh ansible && touch $@

$(DEV): requirements-dev.txt $(BASE) $(ANSIBLE)
	@scripts/venv.sh dev && touch $@

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
## sweep.yaml of make sweep; empty: the overlay's own
SWEEP ?=
## processes on this machine; empty: decided from its processor, and said
NPROC ?=
## threads of each process; empty: its share of the cores
THREADS ?=
## stop after this stage: check-data, before, train, merge, after or report
UNTIL ?=
## name of the run; empty: overlay and a hash of recipe, model, data and processes; make compare, diff-runs: of the runs, separated by spaces; make sweep-status, sweep-stop: of the sweep
RUN ?=
## directory of all runs
RUNS ?= runs
## branch, tag or commit of a model or data set on the hub; empty: the recipe's, or the main branch
REVISION ?=
## hash of the file that DATA=https://… names
SHA256 ?=
## where models and data sets lie: a directory; for fetch-model and fetch-data a bucket too: s3://bucket/prefix
STORE ?= store
## other values of cluster.yaml for this run, separated by spaces: "nodes=1 resources.limits.cpu=2"
PLACE ?=
## kind of job instead of the overlay's: job, pytorchjob, mpijob or trainjob
RUNTIME ?=
## further components of kustomize/components for this run, or operators to install, separated by spaces
WITH ?=
## components of the overlay to leave out for this run, separated by spaces
WITHOUT ?=
## namespace of the team on the cluster
NAMESPACE ?= finetune
## context of kubectl; empty: its current one
CONTEXT ?=
## storage class of the store that make cluster-setup claims; empty: the cluster's default
STORAGE_CLASS ?=
## size of that store; empty: 500Gi
STORAGE_SIZE ?=
## further flags of make cluster-setup, as its --help lists them
SETUP_FLAGS ?=
## folder with the operators' manifests, for clusters without network; empty: from their releases
OPERATORS_DIR ?=
## what make results copies: adapter, model, merged, report, logs, data, checkpoints; empty: all but the last two; make publish: merged, model or adapter; make bench: of train curve ranks data length merge
WHAT ?=
## directory that make results copies to; empty: RUNS/<run>; make compare: the page; make reproduce: the new run's name; make deliver: cluster or s3://bucket/prefix; make publish: directory, s3://bucket/prefix or hub:owner/name
TO ?=
## logs of this pod alone: its number, launcher, or its name
POD ?=
## FOLLOW=1: make logs goes on as the logs grow
FOLLOW ?=
## JSON=1: make status, preflight, models, diff-runs and runs ON=cluster print it for a program
JSON ?=
## ON=cluster: runs, models and data of the cluster, not of this machine
ON ?= here
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
## FORCE=1: deploy although a check failed; quantise although it is worse than the limit; image-remove and remove-model although it is or was used
FORCE ?=
## what make publish overrides, separated by spaces: licence, proof, incomplete, changed, replace; make eval: code, which came with a task
ALLOW ?=
## further flags of ansible-playbook, such as "--ask-become-pass -v"
ANSIBLE_FLAGS ?=
## YES=1 deletes and removes without a question
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
## IN_IMAGE=1: make run, check-data and reproduce work inside the image, with nothing installed here but make and an engine
IN_IMAGE ?=
## directory of the test equipment; tests that need it are skipped by name where it is absent
SHARED ?= ../shared
## optimiser steps of each run of make bench, the first not counted
STEPS ?= 4
## optimiser steps of each run of make bench's loss curves
STEPS_CURVE ?= 100
## how often each variant of make bench is measured
ROUNDS ?= 3
## layers of the model of make bench
LAYERS ?= 6
## port that make serve listens on, and make chat looks at
PORT ?= 8000
## address that make serve listens on; 0.0.0.0: everybody who reaches this machine may ask, without a password
HOST ?= 127.0.0.1
## server that make chat talks to: http://host:port/v1; empty: the one of RUN or MODEL, or one of its own meanwhile
URL ?=
## system message that make chat puts before the conversation
SYSTEM ?=
## FRESH=1: make bench forgets what it measured with these parameters, and installs current releases to compare with
FRESH ?=

## of a weight: for make export 16 or 8, empty: 16; for make quantise 8 or 4, empty: 8
BITS ?=
## what make export writes: gguf
FORMAT ?= gguf
## task files of make eval, or directories of them, separated by spaces: "kustomize/overlays/demo/tasks mine.yaml"
TASKS ?=
## make eval asks only so many rows of each task; empty: all
LIMIT_ROWS ?=

# Recipes read these from the environment, in quotes: a value with spaces stays one value.
export OVERLAY MODEL DATA VALIDATION_DATA SET SWEEP NPROC THREADS UNTIL RUN RUNS YES PYTHON3 TORCH_INDEX WHEELS SHARED
export REGISTRY REGISTRY_INSECURE INVENTORY LIMIT CHECK FORCE ALLOW ANSIBLE_FLAGS
export REVISION SHA256 STORE
export PLACE RUNTIME WITH WITHOUT NAMESPACE CONTEXT STORAGE_CLASS STORAGE_SIZE SETUP_FLAGS OPERATORS_DIR WHAT TO POD FOLLOW JSON ON
export TARGET BUILDER BASE_IMAGE ONECCL_INDEX COMPRESSION BUILD_FLAGS IN_IMAGE
export STEPS STEPS_CURVE ROUNDS LAYERS FRESH
export PORT HOST URL SYSTEM
export BITS FORMAT
export TASKS LIMIT_ROWS

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
# Values of what concerns a cluster: which one; a run that could be deployed; a run that was.
PLACE_FLAGS = --namespace "$$NAMESPACE" $${CONTEXT:+--context "$$CONTEXT"}
PLAN_FLAGS = --overlay "$$OVERLAY" $${RUN:+--run "$$RUN"} $${MODEL:+--model "$$MODEL"} $${DATA:+--data "$$DATA"} \
	$${VALIDATION_DATA:+--validation-data "$$VALIDATION_DATA"} $${RUNTIME:+--runtime "$$RUNTIME"} \
	$${SET:+--set $$SET} $${PLACE:+--place $$PLACE} $${WITH:+--with $$WITH} \
	$${WITHOUT:+--without $$WITHOUT} $(PLACE_FLAGS)
# Values of a fetch into a cluster's store, which a job there does.
FETCH_THERE = --overlay "$$OVERLAY" $${MODEL:+--model "$$MODEL"} $${DATA:+--data "$$DATA"} \
	$${REVISION:+--revision "$$REVISION"} $${SHA256:+--sha256 "$$SHA256"} $${PLACE:+--place $$PLACE} \
	$${WITH:+--with $$WITH} $${WITHOUT:+--without $$WITHOUT} $(PLACE_FLAGS)
# An OVERLAY that nobody gave picks no run: then it is the newest of all.
FOLLOW_FLAGS = $(if $(filter file,$(origin OVERLAY)),,--overlay "$$OVERLAY") $${RUN:+--run "$$RUN"} $(PLACE_FLAGS)
SWEEP_FLAGS = --runs-dir "$$RUNS" $$(test "$$FORCE" != 1 || echo --force)
AS_JSON = $$(test "$$JSON" != 1 || echo --json)
CLUSTER = $(PYTHON) -m scripts.cluster
# The store's bookkeeping, of this machine or with ON=cluster of a cluster; and the words that remove without asking.
ARTIFACTS = $(if $(filter cluster,$(ON)),$(CLUSTER).cluster_artifacts $(PLACE_FLAGS),$(PYTHON) -m scripts.artifacts \
	--store "$$STORE" --runs-dir "$$RUNS")
SURELY = $$(test "$$YES" != 1 || echo --yes) $$(test "$$FORCE" != 1 || echo --force)
# What runs the chain: .venv, or with IN_IMAGE=1 a container.
CHAIN = $(if $(filter 1,$(IN_IMAGE)),"$$PYTHON3" -m scripts.image_run chain,$(PYTHON) -m scripts.run)
REPRODUCE = $(if $(filter 1,$(IN_IMAGE)),"$$PYTHON3" -m scripts.image_run reproduce,$(PYTHON) -m scripts.reproduce)
CHAIN_NEEDS = $(if $(filter 1,$(IN_IMAGE)),,$(BASE))
# Values of the image's targets, which need no .venv: $PYTHON3 and its own library.
IMAGE = "$$PYTHON3" -m scripts.image
IMAGE_FLAGS = --target "$$TARGET" --compression "$$COMPRESSION" $${BUILDER:+--builder "$$BUILDER"} \
	$${BASE_IMAGE:+--base-image "$$BASE_IMAGE"} $${WHEELS:+--wheels "$$WHEELS"} \
	$${TORCH_INDEX:+--torch-index "$$TORCH_INDEX"} $${ONECCL_INDEX:+--oneccl-index "$$ONECCL_INDEX"} \
	--build-flags="$$BUILD_FLAGS"

# What is served or talked to; and on a cluster, with what.
SERVED = $${RUN:+--run "$$RUN"} $${MODEL:+--model "$$MODEL"}
SERVED_THERE = $(SERVED) $(if $(filter file,$(origin OVERLAY)),,--overlay "$$OVERLAY") $${PLACE:+--place $$PLACE} \
	$${WITH:+--with $$WITH} $(PLACE_FLAGS)
# Values of quantise, export and their undoers: a run's model, or a directory.
EXPORT_FLAGS = $${RUN:+--run "$$RUN"} $${MODEL:+--model "$$MODEL"} $${BITS:+--bits "$$BITS"} --runs-dir "$$RUNS"

# Values of bench.
BENCH_FLAGS = --steps "$$STEPS" --steps-curve "$$STEPS_CURVE" --rounds "$$ROUNDS" --layers "$$LAYERS" --shared "$$SHARED" \
	$${DATA:+--data "$$DATA"} $${THREADS:+--threads "$$THREADS"} $${WHAT:+--what $$WHAT} \
	$$(test "$$FRESH" != 1 || echo --fresh)
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

##@ Several recipes

.PHONY: sweep
sweep: $(BASE) ## Try the points of OVERLAY's sweep.yaml, or SWEEP=file, and compare; ON=cluster: beside each other there.
	@set -f; test "$$ON" = cluster || exec $(PYTHON) -m scripts.sweep.sweep run $(RUN_FLAGS) $${SWEEP:+--sweep "$$SWEEP"}
	@set -f; test "$$ON" != cluster || exec $(CLUSTER).sweep run $(PLAN_FLAGS) $${SWEEP:+--sweep "$$SWEEP"} $(SWEEP_FLAGS)

.PHONY: sweep-status
sweep-status: $(BASE) ## How the points of OVERLAY's newest sweep stand, the best marked, and their comparison; RUN=sweep for another.
	@test "$$ON" = cluster || exec $(PYTHON) -m scripts.sweep.sweep status --overlay "$$OVERLAY" $${RUN:+--run "$$RUN"} --runs-dir "$$RUNS"
	@test "$$ON" != cluster || exec $(CLUSTER).sweep status --overlay "$$OVERLAY" $${RUN:+--run "$$RUN"} $(PLACE_FLAGS) $(SWEEP_FLAGS)

.PHONY: sweep-stop
sweep-stop: $(BASE) ## Take the unfinished runs of OVERLAY's newest sweep, or RUN=sweep, off the cluster. Their files stay.
	@exec $(CLUSTER).sweep stop --overlay "$$OVERLAY" $${RUN:+--run "$$RUN"} $(PLACE_FLAGS) $(SWEEP_FLAGS)

##@ Runs

.PHONY: runs
runs: $(BASE) ## List the runs on this machine; ON=cluster: all that ever ran there, and where their files are.
	@test "$$ON" = cluster || exec $(PYTHON) -m scripts.runs list --runs-dir "$$RUNS"
	@test "$$ON" != cluster || exec $(CLUSTER).cluster_runs list $(FOLLOW_FLAGS) $(AS_JSON)

.PHONY: report
report: $(BASE) ## Write the report of a run again: RUN=name.
	@$(PYTHON) -m train.report --run "$$RUNS/$${RUN:?give RUN=name, make runs lists the names}"

.PHONY: compare
compare: $(BASE) ## Runs beside each other, in a table and on one page: RUN="a b c", or OVERLAY= for its finished runs; TO=file.html.
	@set -f; exec $(PYTHON) -m scripts.compare $${RUN:+--run $$RUN} --runs-dir "$$RUNS" $${TO:+--to "$$TO"} \
	  $(if $(filter file,$(origin OVERLAY)),,--overlay "$$OVERLAY")

.PHONY: diff-runs
diff-runs: $(BASE) ## What differs between two runs: recipe, model, data, versions, machine, figures: RUN="a b", JSON=1.
	@set -f; exec $(PYTHON) -m scripts.diff_runs $${RUN:+--run $$RUN} --runs-dir "$$RUNS" $(AS_JSON)

.PHONY: reproduce
reproduce: $(CHAIN_NEEDS) ## Train a run again from its run.json and say whether the same came out, or what differs: RUN=name; TO=new name.
	@exec $(REPRODUCE) --run "$$RUN" --runs-dir "$$RUNS" $${TO:+--to "$$TO"} $${MODEL:+--model "$$MODEL"} \
	  $${DATA:+--data "$$DATA"} $${VALIDATION_DATA:+--validation-data "$$VALIDATION_DATA"} $${UNTIL:+--until "$$UNTIL"}

.PHONY: publish
publish: $(BASE) ## Give a run's result away with a card: RUN=, TO=directory, s3://bucket/prefix or hub:owner/name; WHAT=, ALLOW=.
	@exec $(PYTHON) -m scripts.publish.publish --run "$$RUN" --to "$$TO" --what "$$WHAT" --allow "$$ALLOW" --on "$$ON" \
	  --runs-dir "$$RUNS"

.PHONY: quantise
quantise: $(BASE) ## A run's model with int8 or int4 weights, measured beside it: RUN= or MODEL=, BITS=8 or 4, FORCE=1.
	@exec $(PYTHON) -m train.quantise $(EXPORT_FLAGS) $$(test "$$FORCE" != 1 || echo --force)

.PHONY: quantise-remove
quantise-remove: $(BASE) ## Take that model away again: RUN= or MODEL=, BITS=.
	@exec $(PYTHON) -m train.quantise $(EXPORT_FLAGS) --remove

.PHONY: export
export: $(BASE) ## A run's model as one file for llama.cpp and Ollama, proven: RUN= or MODEL=, FORMAT=gguf, BITS=16 or 8.
	@exec $(PYTHON) -m train.gguf_export $(EXPORT_FLAGS) --format "$$FORMAT"

.PHONY: export-remove
export-remove: $(BASE) ## Take that file away again: RUN= or MODEL=, BITS=.
	@exec $(PYTHON) -m train.gguf_export $(EXPORT_FLAGS) --remove

.PHONY: eval
eval: $(BASE) ## Base beside tuned model on lm-evaluation-harness' local task files: TASKS="path …", RUN= or MODEL=, LIMIT_ROWS=.
	@set -f; exec $(PYTHON) -m scripts.eval.eval $${TASKS:+--tasks $$TASKS} $(SERVED) --allow "$$ALLOW" --on "$$ON" \
	  $${LIMIT_ROWS:+--limit-rows "$$LIMIT_ROWS"} --runs-dir "$$RUNS"

.PHONY: eval-remove
eval-remove: $(BASE) ## Take its results away: RUN=; without RUN the harness and the results of models. YES=1 for no question.
	@exec $(PYTHON) -m scripts.eval.eval --remove $${RUN:+--run "$$RUN"} --runs-dir "$$RUNS" \
	  $$(test "$$YES" != 1 || echo --yes)

.PHONY: delete-run
delete-run: $(BASE) ## Delete a run for good, after a question: RUN=name, ON=cluster for the store's, YES=1 for no question.
	@yes=$$(test "$$YES" != 1 || echo --yes); if test "$$ON" = cluster; then \
	  exec $(CLUSTER).cluster_runs delete $$yes $(FOLLOW_FLAGS); \
	else exec $(PYTHON) -m scripts.runs delete "$$RUN" $$yes --runs-dir "$$RUNS"; fi

##@ Models and data

.PHONY: fetch-model
fetch-model: $(BASE) ## Bring the model of OVERLAY=, or MODEL=owner/name, from the hub into the store; the same command goes on.
	@test "$$ON" != cluster || { set -f; exec $(CLUSTER).fetch model $(FETCH_THERE); }
	@test "$$ON" = cluster || exec $(PYTHON) -m scripts.fetch.model --overlay "$$OVERLAY" $${MODEL:+--model "$$MODEL"} \
	  $${REVISION:+--revision "$$REVISION"} --store "$$STORE"

.PHONY: fetch-data
fetch-data: $(BASE) ## Bring rows into the store: of OVERLAY=, DATA=owner/name, DATA=https://… with SHA256=, or DATA=file.
	@test "$$ON" != cluster || { set -f; exec $(CLUSTER).fetch data $(FETCH_THERE); }
	@test "$$ON" = cluster || exec $(PYTHON) -m scripts.fetch.data --overlay "$$OVERLAY" $${DATA:+--data "$$DATA"} \
	  $${REVISION:+--revision "$$REVISION"} $${SHA256:+--sha256 "$$SHA256"} --store "$$STORE"

.PHONY: fetch-stop
fetch-stop: $(BASE) ## End fetches on the cluster: of OVERLAY=, MODEL= or DATA=. What has come stays for the next.
	@set -f; exec $(CLUSTER).fetch stop $(FETCH_THERE)

.PHONY: models
models: $(BASE) ## List the models and data sets in the store, who uses them, and what is half fetched; ON=cluster: there.
	@exec $(ARTIFACTS) list $(AS_JSON)

.PHONY: verify-model
verify-model: $(BASE) ## Read all of MODEL= again, or of every model, and say what is damaged and how to mend it.
	@exec $(ARTIFACTS) verify --kind model --name "$$MODEL" --revision "$$REVISION"

.PHONY: verify-data
verify-data: $(BASE) ## The same of DATA=, or of every data set.
	@exec $(ARTIFACTS) verify --kind dataset --name "$$DATA" --revision "$$REVISION"

.PHONY: remove-model
remove-model: $(BASE) ## Remove MODEL= from the store, after a question; refused while a run uses it, FORCE=1 where all have ended.
	@exec $(ARTIFACTS) remove --kind model --name "$$MODEL" --revision "$$REVISION" $(SURELY)

.PHONY: remove-data
remove-data: $(BASE) ## The same of DATA=.
	@exec $(ARTIFACTS) remove --kind dataset --name "$$DATA" --revision "$$REVISION" $(SURELY)

.PHONY: deliver
deliver: $(BASE) ## Bring a model or rows from here into a cluster without a way out, or to S3: MODEL= or DATA=, TO=cluster|s3://….
	@exec $(PYTHON) -m scripts.deliver $${MODEL:+--model "$$MODEL"} $${DATA:+--data "$$DATA"} \
	  $${REVISION:+--revision "$$REVISION"} --to "$$TO" $(PLACE_FLAGS)

##@ Serve and chat

.PHONY: serve
serve: $(BASE) ## Answer requests as OpenAI's API has it: RUN=name or MODEL=directory, PORT=, HOST=; ON=cluster: there.
	@test "$$ON" != cluster || { set -f; exec $(CLUSTER).serve up $(SERVED_THERE); }
	@test "$$ON" = cluster || exec $(PYTHON) -m scripts.serve.serve $(SERVED) --host "$$HOST" --port "$$PORT" \
	  --runs-dir "$$RUNS"

.PHONY: chat
chat: $(BASE) ## Talk to a model in the terminal, or by a pipe: RUN=, MODEL= or URL=; SYSTEM=; ON=cluster: the one there.
	@exec $(PYTHON) -m scripts.serve.chat $(SERVED) $${URL:+--url "$$URL"} $${SYSTEM:+--system "$$SYSTEM"} \
	  --host "$$HOST" --port "$$PORT" --runs-dir "$$RUNS" --on "$$ON" $(PLACE_FLAGS)

.PHONY: serve-status
serve-status: $(BASE) ## What is served on the cluster, since when, and whether it is ready.
	@exec $(CLUSTER).serve status $(SERVED) $(PLACE_FLAGS) $(AS_JSON)

.PHONY: unserve
unserve: $(BASE) ## Take what is served off the cluster: RUN= or MODEL=. Its files stay on the store.
	@exec $(CLUSTER).serve down $(SERVED) $(PLACE_FLAGS)

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

##@ Make a cluster ready, once

.PHONY: cluster-setup
cluster-setup: $(BASE) ## A team's namespace: store, rights, limits, closed network, queue, access to the data. May be repeated.
	@set -f; exec $(CLUSTER).setup apply $(PLACE_FLAGS) $${STORAGE_CLASS:+--storage-class "$$STORAGE_CLASS"} \
	  $${STORAGE_SIZE:+--storage-size "$$STORAGE_SIZE"} $$SETUP_FLAGS

.PHONY: cluster-check
cluster-check: $(BASE) ## Say which of these objects are as wanted, differ or are missing; changes nothing.
	@set -f; exec $(CLUSTER).setup check $(PLACE_FLAGS) $$SETUP_FLAGS

.PHONY: cluster-remove
cluster-remove: $(BASE) ## Take them away; the store and what lies in it stay, unless SETUP_FLAGS=--delete-data.
	@set -f; exec $(CLUSTER).setup remove $(PLACE_FLAGS) $$SETUP_FLAGS

.PHONY: operators
operators: $(BASE) ## Install operators in pinned versions: WITH="training kueue"; without WITH, say what the cluster has.
	@set -f; exec $(CLUSTER).operators $$(test -n "$$WITH" && echo "install --with $$WITH" || echo check) \
	  $${CONTEXT:+--context "$$CONTEXT"} $${OPERATORS_DIR:+--operators-dir "$$OPERATORS_DIR"}

.PHONY: operators-remove
operators-remove: $(BASE) ## Take operators away: WITH="kueue". Refused while objects of their kinds exist.
	@set -f; exec $(CLUSTER).operators remove --with $$WITH $${CONTEXT:+--context "$$CONTEXT"} \
	  $${OPERATORS_DIR:+--operators-dir "$$OPERATORS_DIR"}

##@ Fine-tune on a cluster

.PHONY: render
render: $(BASE) ## Print the objects that make deploy would apply.
	@set -f; exec $(CLUSTER).deploy render $(PLAN_FLAGS)

.PHONY: diff
diff: $(BASE) ## Show what make deploy would change on the cluster.
	@set -f; exec $(CLUSTER).deploy diff $(PLAN_FLAGS)

.PHONY: pin-image
pin-image: $(BASE) ## Write the built image into OVERLAY's cluster.yaml, for kubectl apply -k, Argo CD and Flux.
	@exec $(PYTHON) -m scripts.cluster.pin "$$OVERLAY"

.PHONY: preflight
preflight: $(BASE) ## Ask the cluster whether the run can start there and end well; every answer at once, nothing changed.
	@set -f; exec $(CLUSTER).preflight $(PLAN_FLAGS) $(AS_JSON)

.PHONY: deploy
deploy: $(BASE) ## Start a use case on the cluster. The same again shows or resumes it, anything changed is a run beside it.
	@set -f; exec $(CLUSTER).deploy deploy $(PLAN_FLAGS) $$(test "$$FORCE" != 1 || echo --force)

.PHONY: undeploy
undeploy: $(BASE) ## Take a run off the cluster: OVERLAY= or RUN=. Its files stay on the store.
	@set -f; exec $(CLUSTER).deploy undeploy $(PLAN_FLAGS)

.PHONY: status
status: $(BASE) ## How the runs on the cluster stand; OVERLAY= or RUN= for one in detail.
	@exec $(CLUSTER).status $(FOLLOW_FLAGS) $(AS_JSON)

.PHONY: watch
watch: $(BASE) ## Follow a run from pending to done: OVERLAY= or RUN=. Ctrl-C ends the view, not the run.
	@exec $(CLUSTER).watch $(FOLLOW_FLAGS)

.PHONY: logs
logs: $(BASE) ## Print the logs of a run's pods: OVERLAY= or RUN=, POD= for one pod.
	@flag=$$(if [[ "$$POD" =~ ^([0-9]+|launcher)$$ ]]; then echo --rank; else echo --pod; fi); \
	exec $(CLUSTER).logs $(FOLLOW_FLAGS) $${POD:+$$flag "$$POD"} $$(test "$$FOLLOW" != 1 || echo --follow)

.PHONY: results
results: $(BASE) ## Copy what a run learned to this machine, every byte verified: OVERLAY= or RUN=, WHAT=, TO=.
	@exec $(CLUSTER).results $(FOLLOW_FLAGS) $${WHAT:+--what "$$WHAT"} --to "$$TO"

.PHONY: shell
shell: $(BASE) ## A shell in a run's first pod, or in the one with the store: OVERLAY= or RUN=.
	@exec $(CLUSTER).shell $(FOLLOW_FLAGS)

##@ Check

.PHONY: test
test: lint ## Formatting, linters, generated files, unit tests, every bad input, the demo end to end (minutes).
	$(PYTHON) -m pytest --numprocesses 2 --dist loadfile -m "not faults and not nodes and not image and not cluster"

.PHONY: test-faults
test-faults: $(DEV) ## Kills at random moments, one recipe on several layouts of processes, make eval's harness (many minutes).
	$(PYTHON) -m pytest -m faults

.PHONY: test-nodes
test-nodes: $(DEV) ## Push to real nodes, with faults: TUNEFLEET_TEST_INVENTORY, or the test equipment's testbed (minutes).
	@# Nodes, links and clocks are real here: what fails is tried once more by itself, and said; twice is broken.
	$(PYTHON) -m pytest -m nodes tests/ansible || $(PYTHON) -m pytest -m nodes tests/ansible --last-failed --last-failed-no-failures none

.PHONY: test-cluster
test-cluster: $(DEV) ## Every use case on a real cluster, with faults: TUNEFLEET_TEST_CLUSTER=1 for kubectl's, or the testbed (minutes).
	$(PYTHON) -m tests.cluster.everything use-cases

.PHONY: test-operations
test-operations: $(DEV) ## What is done around runs on a cluster: sweeps, S3, delivery, serving, runbooks; as test-cluster (many minutes).
	$(PYTHON) -m tests.cluster.everything operations

.PHONY: test-image
test-image: $(DEV) ## Build the image without network and run it: needs buildah, podman, mmdebstrap and root (minutes).
	$(PYTHON) -m pytest -m image tests/image

.PHONY: bench
bench: $(BASE) ## Ours beside TRL and transformers, in turns, on real rows; loss curves, merge, ranks, data, length: WHAT=, STEPS=.
	@set -f; exec $(PYTHON) -m scripts.bench.bench $(BENCH_FLAGS)

.PHONY: bench-remove
bench-remove: ## Remove what make bench installed, made and measured, and the runs of make profile.
	rm -rf build/bench build/profile

.PHONY: profile
profile: $(BASE) ## Where a training step's time goes, by kind of work: OVERLAY=, MODEL=, DATA=, SET=.
	@set -f; exec $(PYTHON) -m scripts.bench.profile --overlay "$$OVERLAY" $${MODEL:+--model "$$MODEL"} \
	  $${DATA:+--data "$$DATA"} $${SET:+--set $$SET}

.PHONY: bench-push
bench-push: $(DEV) ## How long until the last of 8 nodes has an image, beside a copy loop and others (45 minutes).
	$(PYTHON) -m tests.ansible.bench_push

.PHONY: bench-fetch
bench-fetch: $(DEV) ## How fast a model is fetched over a link of 1 Gbit/s, hashing included, beside curl (minutes).
	@exec $(PYTHON) -m scripts.bench_fetch

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
parameters: $(BASE) ## docs/parameters.md and docs/placement.md, from schemas/.
	$(PYTHON) -m scripts.parameters && $(PYTHON) -m scripts.placement_table

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

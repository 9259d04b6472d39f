# Burnish: the user's interface. `make` alone prints the commands.
#
# Everything is installed into .venv; caches that outlive a clone (llama.cpp builds, dequantized bases) are in ~/.cache/burnish.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
# PyTorch's index of CPU builds, used without a GPU
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | head -n1)
CONFIG ?= $(if $(GPU),configs/qlora-8b.yaml,configs/quickstart.yaml)
PORT ?= 8000
SET ?=

# a value quoted as one shell word, whatever it contains
quoted = '$(subst ','\'',$(value $(1)))'
# --key value, only if the user gave one
opt = $(if $(value $(1)),$(2) $(call quoted,$(1)))
CONFIG_WORD = '$(subst ','\'',$(CONFIG))'
# where commands run: auto uses Docker if an engine responds and the image exists or can be built, otherwise this machine
RUNNER ?= auto
VERB := $(firstword $(filter ship check plan train export examine push card serve chat,$(MAKECMDGOALS)))
WHERE := $(if $(VERB),$(shell VENV='$(VENV)' RUNNER='$(RUNNER)' tools/docker.sh where $(VERB)))
$(if $(VERB),$(if $(WHERE),,$(error RUNNER=$(RUNNER): nothing was run)))
# the project is imported from its root, whatever the working directory contains; see burnish/children/path.py
SAFE_PATH = PYTHONSAFEPATH=1 PYTHONPATH='$(subst ','\'',$(CURDIR))'"$${PYTHONPATH:+:$$PYTHONPATH}"
SAFE_PY = $(SAFE_PATH) $(PY)
STAGE = $(if $(filter docker,$(WHERE)),tools/docker.sh,$(SAFE_PY) -m)
READY := $(if $(filter docker,$(WHERE)),,setup)
TORCH := $(shell sed -n 's/^torch==\([^ ;]*\).*/\1/p' requirements/torch.txt)

.PHONY: help
help:
	@awk -f tools/help.awk $(firstword $(MAKEFILE_LIST))

# ---- setup: one stamp file per step, so that a second run is instant -------------------------------------------------

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"$(PYTHON) is Python {v.major}.{v.minor}, but 3.11 to 3.13 is required; choose another with PYTHON=python3.12")'
	@echo "setup: virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and separately, so that nothing pulls several GB of CUDA libraries onto a machine without a GPU; local wheels
# configured in pip (find-links) take precedence over the network
$(VENV)/.torch: requirements/torch.txt | $(VENV)/.created
	@echo "setup: torch $(TORCH) $(if $(GPU),with CUDA,for the CPU)"
ifneq ($(GPU),)
	@$(PY) -m pip install --quiet --disable-pip-version-check torch==$(TORCH)
else
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-index torch==$(TORCH) 2>/dev/null \
	  || $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --index-url $(TORCH_INDEX) torch==$(TORCH)
endif
	@touch $@

$(VENV)/.packages: requirements/train.txt requirements/quickstart.txt | $(VENV)/.torch
	@echo "setup: the packages of requirements/train.txt (some minutes)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/train.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/quickstart.txt
	@touch $@

LLAMA_PARTS := requirements/llama.txt tools/build_llama.py tools/llama_key.py tools/selftest_llama.py tools/tiny_gguf.py deploy/amx.cmake deploy/amx_tile_config.h

$(VENV)/.llama: $(LLAMA_PARTS) | $(VENV)/.packages
	@$(PY) tools/build_llama.py
	@touch $@

$(VENV)/.dev: requirements/dev.txt | $(VENV)/.packages
	@echo "setup: the packages of requirements/dev.txt"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/dev.txt
	@touch $@

# ---- the product's commands ------------------------------------------------------------------------------------------

##@ Fine-tune and serve

PUBLISHED = $(call opt,RUN,--run.name) $(call opt,REPO,--push.repo) $(call opt,WHAT,--push.what)
# the steps bring their own packages where they run in containers
SHIP_PY = $(if $(filter docker,$(WHERE)),$(SAFE_PATH) $(PYTHON),$(SAFE_PY))

.PHONY: quickstart ship check plan train export examine serve chat generate evaluate push card
quickstart: setup ## set up, train, export, serve and ask, on this CPU
	@$(SAFE_PY) -m tools.quickstart

ship: $(READY) ## check, plan, train, export and serve, with one question after the plan; run it again after Ctrl-C to continue | DATA=f [RUN= CONFIG= BASE= QUANTS= PORT= SET= YES=1]
	@$(SHIP_PY) -m tools.ship --where $(or $(filter docker,$(WHERE)),local) --config $(CONFIG_WORD) --port $(PORT) $(call opt,DATA,--data) $(call opt,BASE,--base) $(call opt,RUN,--run) $(call opt,QUANTS,--quants) $(if $(filter 1 y yes true,$(YES)),--yes) -- $(SET)

check: $(READY) ## read, lint and preview the data | DATA=f [CONFIG= BASE= HTML=f.html SET=]
	@$(STAGE) train check --config $(CONFIG_WORD) $(call opt,DATA,--data.path) $(call opt,BASE,--base.id) $(call opt,HTML,--html) $(SET)

plan: $(READY) ## estimate the memory, disk and time of training | DATA=f [CONFIG= BASE= SET=]
	@$(STAGE) train plan --config $(CONFIG_WORD) $(call opt,DATA,--data.path) $(call opt,BASE,--base.id) $(SET)

train: $(READY) ## fine-tune | DATA=f [CONFIG= BASE= RUN= SET="--lora.r 32"]
	@$(STAGE) train run --config $(CONFIG_WORD) $(call opt,DATA,--data.path) $(call opt,BASE,--base.id) $(call opt,RUN,--run.name) $(SET)

export: $(READY) ## merge, convert, quantize, examine | [RUN= QUANTS=Q4_K_M,Q8_0 BASE= SET=]
	@$(STAGE) export run $(call opt,RUN,--run.name) $(call opt,QUANTS,--gguf.quants) $(call opt,BASE,--run.base) $(SET)

examine: $(READY) ## measure any GGUF or merged directory against a run's exam | FILE=f.gguf [RUN= SET=]
	@$(STAGE) export examine $(call quoted,FILE) $(call opt,RUN,--run.name) $(SET)

serve: $(READY) ## serve a run or a file behind an OpenAI-compatible API | [RUN= or MODEL=f.gguf|hf://owner/name] [PORT= SET=]
	@$(STAGE) serve $(call opt,RUN,--run) $(call opt,MODEL,--model) --port $(PORT) $(SET)

chat: $(READY) ## chat with the server in the terminal | [PORT=]
	@$(STAGE) serve chat --url http://127.0.0.1:$(PORT)/v1

generate: setup ## answer every row of a file; run it again after Ctrl-C to continue | DATA=f OUT=g.csv|g.jsonl|g.parquet [RUN= or MODEL=f.gguf or URL=http://host/v1] [SET="--temperature 0"]
	@$(SAFE_PY) -m serve generate $(call opt,DATA,--data) $(call opt,OUT,--out) $(call opt,RUN,--run) $(call opt,MODEL,--model) $(call opt,URL,--url) $(SET)

evaluate: setup ## score a run and its untuned base on rows with known answers | DATA=f SCORE=exact (or contains, regex, json, json_schema, tool_calls, numeric, f1, choice, python:file.py:function), or SUITE=general [RUN= NAME= SET="--threshold '>= 0.8'"]
	@$(SAFE_PY) -m serve evaluate $(call opt,DATA,--data) $(call opt,SCORE,--score) $(call opt,SUITE,--suite) $(call opt,RUN,--run) $(call opt,NAME,--name) $(SET)

push: $(READY) ## publish the files that passed on the Hugging Face Hub | REPO=owner/name [RUN= WHAT=gguf,merged,adapter PUBLIC=1 DRY_RUN=1]
	@$(STAGE) export push $(PUBLISHED) $(if $(filter 1 y yes true,$(PUBLIC)),--push.public true) $(if $(filter-out 0 n no false,$(DRY_RUN)),--dry-run) $(SET)

card: $(READY) ## print the model card that push would publish | [REPO= RUN= WHAT=]
	@$(STAGE) export card $(PUBLISHED) $(SET)

##@ Your runs

.PHONY: runs compare prune
runs: setup ## list all runs, and write runs/index.html
	@$(SAFE_PY) -m tools.runs list

compare: setup ## print the settings and metrics in which runs differ | RUNS=one,two
	@$(SAFE_PY) -m tools.runs compare $(if $(value RUNS),$(call quoted,RUNS))

prune: setup ## delete checkpoints and other parts that finished runs no longer need, or whole runs; asks first | [RUNS=one,two YES=1]
	@$(SAFE_PY) -m tools.runs prune $(if $(value RUNS),$(call quoted,RUNS)) $(if $(filter 1 y yes true,$(YES)),--yes)

# ---- containers --------------------------------------------------------------------------------------------------------

IMAGE ?= $(if $(GPU),train export serve-cuda,train-cpu export serve)
LLAMA_CPU ?= all
export LLAMA_CPU TORCH_INDEX

##@ Containers

.PHONY: images image-sizes image-contents
images: ## build the container images | [IMAGE="serve export train-cpu" LLAMA_CPU=all|v3|native]
	@tools/images.sh build $(IMAGE)

image-sizes: ## print the images' sizes
	@tools/images.sh sizes

image-contents: ## list an image's packages, with versions and licences | [IMAGE=serve]
	@tools/images.sh contents $(IMAGE)

# ---- development -----------------------------------------------------------------------------------------------------

##@ Work on Burnish

.PHONY: setup lock
setup: $(VENV)/.torch $(VENV)/.packages $(VENV)/.llama ## set up .venv: packages, llama.cpp built for this CPU

lock: | $(VENV)/.created ## resolve requirements/*.in into requirements/*.txt | [UPGRADE="package ..."]
	@$(PY) -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(SAFE_PY) -m tools.lock $(VENV)/bin/uv $(UPGRADE)

# parallel test processes, each file in one of them; a worker takes up to 2 GB
WORKERS ?= 2
PYTEST = $(SAFE_PY) -m pytest -n $(WORKERS) --dist loadfile

.PHONY: test test-fast test-external bench-merge bench-serve bench-train lint layers reference clean
test: setup $(VENV)/.dev ## set up and run all tests except the external ones | [WORKERS=2]
	@$(PYTEST) -m 'not external' --durations=20

test-fast: setup $(VENV)/.dev ## run the tests that take seconds
	@$(PYTEST) -m 'not slow and not external'

test-external: setup $(VENV)/.dev ## run tests against other packages, in their own environments | [ONLY=name]
	@$(SAFE_PY) -m tools.external $(ONLY)

bench-merge: setup $(VENV)/.dev ## compare the merge with PEFT's: time and memory | [SET=]
	@$(SAFE_PY) -m bench.merge $(SET)

bench-serve: setup $(VENV)/.dev ## compare serving with other servers, which it builds | [MODEL=f.gguf SET=]
	@$(SAFE_PY) -m bench.serve --model '$(or $(MODEL),$(lastword $(wildcard runs/latest/gguf/*Q8_0.gguf)))' $(SET)

bench-train: ## compare training with unsloth and TRL, on a GPU | [SET=]
	@$(SAFE_PY) -m bench.train $(SET)

lint: setup $(VENV)/.dev ## run ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

layers: ## check the imports: layers of folders, cycles, file sizes
	@$(SAFE_PATH) $(PYTHON) -m tools.layers

reference: setup ## generate docs/settings.md and docs/openai-api.md
	@$(SAFE_PY) -m tools.reference

clean: ## remove .venv and this clone's caches, not runs/
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

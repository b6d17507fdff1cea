# Four verbs for developers: install, check, fix, test. `make run` is the main job.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TORCH_INDEX := https://download.pytorch.org/whl/cpu
RUN_STAMP := $(VENV)/.run-$(shell cat requirements/run.lock requirements/torch.txt pyproject.toml | sha256sum | cut -c1-12)
TEST_STAMP := $(VENV)/.test-$(shell cat requirements/run.lock requirements/test.lock requirements/torch.txt pyproject.toml | sha256sum | cut -c1-12)
LM_EVAL := $(VENV)/lm-eval
LM_EVAL_STAMP := $(LM_EVAL)/.installed-$(shell sha256sum < requirements/lm-eval.lock | cut -c1-12)
# Files of tests side by side: at most two, since a test may start a service and a stand-in of an engine.
PARALLEL ?= --numprocesses 2 --dist loadfile
export HF_HUB_OFFLINE ?= 1
# Compiled once, not in every process that a test starts.
export PYTHONDONTWRITEBYTECODE :=
export VLLM_NO_USAGE_STATS ?= 1
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: help install experts run tables lm-eval test test-fast mutants check docs fix bench gpu-check lock clean
help:
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile

install: $(RUN_STAMP) ## .venv with everything that `make run` needs

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed (or make PYTHON=/path/to/python3.11 ...)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || deploy/system-packages.sh python3-venv
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): | $(VENV)/bin/python
	@echo "installing the locked environment into $(VENV) (a few minutes, once)" >&2
	$(PIP) install --no-deps -r requirements/torch.txt || $(PIP) install --no-deps -r requirements/torch.txt --index-url $(TORCH_INDEX)
	$(PIP) install --no-deps --require-hashes -r requirements/run.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.run-* && touch $@

$(TEST_STAMP): $(RUN_STAMP)
	$(PIP) install --no-deps --require-hashes -r requirements/test.lock
	@rm -f $(VENV)/.test-* && touch $@

$(LM_EVAL_STAMP): requirements/lm-eval.lock | $(VENV)/bin/python
	@echo "installing lm-evaluation-harness into $(LM_EVAL) (a minute, once)" >&2
	$(BIN)/python -m venv --clear $(LM_EVAL)
	$(LM_EVAL)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r $<
	@touch $@

lm-eval: $(LM_EVAL_STAMP) ## a stock lm-evaluation-harness in an environment of its own, to check the service with

experts: $(RUN_STAMP) ## make the CPU experts under models/ (from files in the repository; no training)
	@$(BIN)/python -m coe.demo prepare models

run: experts ## the service with the CPU experts
	@$(BIN)/coe serve

tables: $(RUN_STAMP) ## every table of the documentation, from the recorded data in COE_DATA
	@$(BIN)/python -m benchmarks.make_tables

check: $(TEST_STAMP) ## lint, types, who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/python -m benchmarks.budgets
	$(SITE) --quiet

docs: $(TEST_STAMP) ## the documentation as a site: var/site/index.html
	@$(BIN)/python -m docs.generate
	@$(SITE)

fix: $(TEST_STAMP) ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-fast: $(TEST_STAMP) ## what needs no vLLM, Ray or Redis process, in a minute and a half
	$(BIN)/pytest -q $(PARALLEL) -m "not (slow or models or redis or real_vllm or real_ray)"

test: $(TEST_STAMP) $(LM_EVAL_STAMP) check experts ## everything: lint, types, the whole suite on real vLLM
	@command -v redis-server >/dev/null || deploy/system-packages.sh redis-server
	@status=0; set -x; \
	$(BIN)/pytest -q --durations=10 $(PARALLEL) -m "not (models or real_vllm or real_ray)" || status=1; \
	$(BIN)/pytest -q --durations=10 -m "models or real_vllm or real_ray" || status=1; \
	exit $$status

mutants: $(TEST_STAMP) ## which faults in the sources no test notices: a random sample of ten minutes (SEED=1, MINUTES=10)
	@$(BIN)/python -m benchmarks.mutants --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1)

bench: $(TEST_STAMP) experts ## figures of this machine: scheduling in virtual time, and on real experts
	@$(BIN)/python -m benchmarks.scheduling
	@$(BIN)/python -m benchmarks.real

gpu-check: experts ## do sleeping, waking and swapping work here, and what do they cost? A JSON report
	@$(BIN)/python -m benchmarks.gpu_check

lock: ## remake the lock files from requirements/*.in
	sh requirements/lock.sh

clean: ## remove what make made, but not the environment
	rm -rf models var .mypy_cache .ruff_cache .pytest_cache .hypothesis

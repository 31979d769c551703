# Development on a machine with nothing but Python 3.11, a C++ compiler and libnuma; no GPU is needed.
#   PYTHON       the interpreter that .venv is made with (default: python3.11, else a python3 that is 3.11 or 3.12)
#   WORKERS      processes that run tests in parallel (default: 2); each may take 9 GB for a run of the host
#   TORCH_INDEX  PyTorch's CPU index, if pip's own index has no CPU build of torch

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BUILT := $(VENV)/.built

WORKERS ?= 2
# An idle worker takes over tests from the other: tests of the host take minutes each.
PYTEST = $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

usable = $(shell for p in $(1); do "$$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo "$$p" && break; done)
PYTHON ?= $(call usable,python3.11 python3 python3.12)

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test test-fast test-e2e coverage soak lint format site package resolve clean

help: ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

venv: $(BUILT) ## Set up .venv: the host's CPU stack and this project with its development tools

quickstart: $(BUILT) ## Train a tiny model on the CPU, start to finish
	OPENRLHF_LAMER_INSTALL_SECONDS=$$(cat $(VENV)/.install-seconds) $(BIN)/openrlhf-lamer quickstart

test: lint $(BUILT) ## Lint, type check and run all tests, including those with the real host
	$(PYTEST)

test-fast: lint ## The first half: lint, types, and the tests that do not start the real host
	$(PYTEST) -m "not e2e"

test-e2e: $(BUILT) ## The second half: the tests that start the real host
	$(PYTEST) -m e2e

coverage: $(STAMP) ## Print the core's coverage by the tests that do not start the host; below 90% is an error
	$(PYTEST) -m "not e2e" --cov --cov-report=term

soak: $(BUILT) ## Watch memory over 20,000 trials from rollout to training; takes half an hour
	$(BIN)/python benchmarks/soak.py

lint: $(STAMP) ## Check style, formatting, types and Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint docker/Dockerfile.*
	$(BIN)/pyright

format: $(STAMP) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

site: $(STAMP) ## Build the site into site/, without network; any warning fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

package: $(STAMP) ## Build sdist and wheel in dist/
	$(BIN)/python -m build --no-isolation

# Resolves without installing; also works without a virtual environment: make resolve UV=uv
UV ?= $(BIN)/uv
resolve: ## Check with the resolver that the extra gpu can be installed; needs a package index
	@mkdir -p build
	@for python in 3.11 3.12; do \
		$(UV) pip compile --quiet --extra gpu --python-platform x86_64-manylinux_2_28 --python-version $$python pyproject.toml \
			--output-file build/gpu-$$python.txt && echo "Python $$python: build/gpu-$$python.txt" || exit 1; \
	done

clean: ## Remove caches and build outputs (not .venv)
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

# uv keeps an installed torch, so pip installs it first: from the index above, or from where pip finds a CPU build.
# uv compiles bytecode only if told to: otherwise, with PYTHONDONTWRITEBYTECODE set, every process would compile vLLM.
$(STAMP): pyproject.toml openrlhf_lamer.pth requirements/cpu.txt requirements/cpu-overrides.txt
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 with venv found; set PYTHON." >&2; exit 1; }
	@date +%s > .install-began
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements/cpu.txt -e '.[dev,docs,alfworld,webshop]' \
		--override requirements/cpu-overrides.txt
	touch $@

# DeepSpeed compiles two small extensions on first use; done here, this does not count as a test's time.
$(BUILT): $(STAMP)
	$(BIN)/python -m openrlhf_lamer.integration.cpu.prebuild
	@test ! -f .install-began || expr $$(date +%s) - $$(cat .install-began) > $(VENV)/.install-seconds
	@rm -f .install-began
	touch $@

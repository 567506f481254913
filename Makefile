# All commands of the project. Each works right after a clone: what it needs is set up first.
.DEFAULT_GOAL := help
.SUFFIXES:
SHELL := /bin/sh
ARGS ?=
# Set in many containers. With the first, each process of the tests would compile all modules again; with the second,
# each run that fails would spend 0.2 s on the symbols of a stack.
unexport PYTHONDONTWRITEBYTECODE RUST_BACKTRACE
BIN := .venv/bin
STAMP := .venv/.set-up
# Four at once on two cores: tests of brokers and kills wait half of their time. A process of tests that dies ends the run
# with the name of its test: pytest-xdist may wait for ever for the tests of one that it has replaced.
PYTEST_ARGS ?= -n 4 --dist loadgroup --max-worker-restart 0
LOCK := $(BIN)/pip-compile --quiet --no-config --all-extras --allow-unsafe --strip-extras --annotation-style=line \
	--no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: $(STAMP) ## Make .venv: exactly what requirements.lock says, and the project itself, editable

# Two set-ups at once wait for each other where flock(1) exists.
$(STAMP): requirements.lock pyproject.toml tools/set-up tools/make-venv
	@if command -v flock >/dev/null 2>&1; then flock .setup.lock tools/set-up "$@"; else tools/set-up "$@"; fi

.PHONY: demo
demo: $(STAMP) ## The whole story on an embedded server, in about two minutes
	@$(BIN)/penstock demo $(ARGS)

.PHONY: test
test: $(STAMP) ## All tests but the long chaos runs; ARGS="tests/penstock/topics -k wake" picks some
	@tools/test-servers
	@$(BIN)/python -m pytest $(PYTEST_ARGS) $(ARGS)

.PHONY: check
check: $(STAMP) ## Format, lint, types, layers of imports, the lock against pyproject.toml, large or binary files
	@tools/check

.PHONY: format
format: $(STAMP) ## Write the house's format and the fixes that ruff can make by itself
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

.PHONY: lock
lock: $(STAMP) ## Renew requirements.lock within pyproject.toml's bounds; ARGS=--upgrade takes the newest
	@$(LOCK) $(ARGS) --output-file requirements.lock pyproject.toml

.PHONY: bench
bench: $(STAMP) ## A benchmark: make bench ARGS="copy --rows 1000000"
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: chaos
chaos: $(STAMP) ## The long tests, every process killed at every point, and all property tests with new examples
	@$(BIN)/python -m pytest -m "chaos or hypothesis" --timeout 3600 -o faulthandler_timeout=3660 $(ARGS)

.PHONY: mutants
mutants: $(STAMP) ## Mutation tests of the modules that keep data; ARGS="postgres/merge --sample 20" picks some
	@nice $(BIN)/python -m tools.mutants $(ARGS)

.PHONY: clean
clean: ## Remove .venv, caches and builds
	@rm -rf .venv .setup.lock .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

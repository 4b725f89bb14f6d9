# Every target does its own set-up on a fresh machine, once, and says what it does.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MINUTES ?= 10
export COORDINATOR_CACHE_DIR ?= $(CURDIR)/.cache

.PHONY: help demo test check docs soak bench performance dev clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(READY) java ## Write posts to Postgres and Kafka as one, while the broker dies and processes are killed
	$(BIN)/python -m examples.social_post.demo

test: check java redis ## Check the code, then run every test on real servers
	@echo "== tests, on servers that they start themselves"
	$(BIN)/python -m pytest

check: $(READY) ## Lint, types and import contracts
	@echo "== format, lint, types, import contracts"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY) ## Build the pages and the API reference; a warning is an error
	@$(BIN)/sphinx-build -W --keep-going -q -E -b html -d .docs/doctrees docs .docs/html
	@echo "the documentation is in .docs/html/index.html"

bench: $(READY) java ## Measure everything that is promised about speed, beside its peers (15 minutes; ARGUMENTS=--help)
	$(BIN)/python -m tests.benchmarks $(ARGUMENTS)

performance: bench ## Measure everything and write docs/performance.md (20 minutes, on a machine that does nothing else)
	$(BIN)/python -m tests.benchmarks.report --docs
	$(BIN)/python -m tests.benchmarks.growth
	$(BIN)/python -m tests.benchmarks.spent --docs

soak: $(READY) java ## Load, while everything breaks, for MINUTES (10); then every promise is checked
	$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

dev: $(READY) java ## Start a PostgreSQL and a Kafka to develop against (stop them: .venv/bin/coordinator dev down)
	$(BIN)/coordinator dev up

clean: ## Remove the virtual environment, the servers' data and all caches
	-[ ! -x $(BIN)/coordinator ] || $(BIN)/coordinator dev down --purge
	rm -rf $(VENV) .dev .cache .docs .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): requirements.lock pyproject.toml
	@echo "== setting up $(VENV) (once)"
	@scripts/setup.sh $(VENV)
	@touch $@

.PHONY: java redis
java:
	@scripts/java.sh

redis:
	@scripts/redis.sh

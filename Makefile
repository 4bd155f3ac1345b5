# `make up` brings a fresh clone to its first answer; `make test` is what CI runs.

TANDEM := target/release/tandem

.PHONY: help deps build up down test lint bench

help: ## Show what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

deps:
	@scripts/deps.sh

build: deps ## Build the programs, the engine for the processor of this machine
	@scripts/build.sh

up: build ## Build, fetch models, start this machine, ask one question
	@$(TANDEM) models pull --default
	@if $(TANDEM) status >/dev/null 2>&1; then \
	  echo "the groups of this machine run already; \`make down up\` starts them anew with this build"; \
	else $(TANDEM) up --detach; fi
	@scripts/first-turn.sh $(TANDEM)

down: ## End this machine's groups
	@$(TANDEM) down

test: ## Everything that CI checks
	@scripts/deps.sh tests
	@scripts/test.sh

lint: deps ## Formatting and lints
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

bench: build ## Measure speed and size; bench/README.md says what against what
	python3 bench/start.py
	python3 bench/memory.py
	python3 bench/first_token.py
	python3 bench/agents.py
	python3 bench/tokens.py "$$(bench/llama-server.sh)"

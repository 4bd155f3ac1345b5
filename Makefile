# `make up` brings a fresh clone to its first answer; `make test` is what CI runs.

TANDEM := target/release/tandem
NEXTEST_VERSION := 0.9.143
# The model that tests think with; its hash is in models.toml.
TEST_MODEL := smollm2-135m

.PHONY: help deps build up down test e2e lint bench

help: ## Show what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

deps:
	@scripts/deps.sh

build: deps ## Build the programs
	cargo build --release --locked -p tandem -p tandem-engine-llama

up: build ## Build, fetch models, start this machine, ask one question
	@$(TANDEM) models pull --default
	@$(TANDEM) up --detach
	@scripts/first-turn.sh $(TANDEM)

down: ## End this machine's groups
	@$(TANDEM) down

test: deps ## Everything that CI checks
	@command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest@$(NEXTEST_VERSION)
	cargo fmt --all -- --check
	cargo build --workspace --all-targets --locked
	target/debug/tandem models pull $(TEST_MODEL)
	cargo nextest run --workspace --locked

e2e: deps ## Whole fleets with a real model, broken on purpose
	target/debug/tandem models pull $(TEST_MODEL)
	cargo nextest run --workspace --locked --profile e2e

lint: deps ## Formatting and lints
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

bench: build ## Measure speed and size; bench/README.md says what against what
	python3 bench/start.py

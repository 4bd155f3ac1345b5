#!/usr/bin/env bash
# Everything that CI checks. The runner's own summary is the last line.
# usage: scripts/test.sh
set -euo pipefail

nextest=0.9.143
# The model that tests think with; its hash is in models.toml.
model=smollm2-135m

if ! cargo nextest --version >/dev/null 2>&1; then
  cargo install --locked "cargo-nextest@$nextest" || echo "note: cargo-nextest cannot be installed; cargo test stands in for it" >&2
fi

path=$(scripts/clients.sh)
export PATH=$path

cargo fmt --all -- --check
cargo clippy --workspace --all-targets --locked -- -D warnings
# The contract by the rules of buf; the page: types, its pure parts, and that what is checked in is what the sources make.
(
  cd web
  npm run --silent lint:proto
  npm run --silent check
  npm run --silent test
  npm run --silent build:check
)
# End-to-end tests start these programs.
cargo build --workspace --bins --locked
target/debug/tandem models pull "$model"

if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --workspace --locked
else
  cargo test --workspace --locked --no-fail-fast -- --test-threads=1
fi

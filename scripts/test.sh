#!/usr/bin/env bash
# Everything that CI checks. The runner's own summary is the last line.
# usage: scripts/test.sh
set -euo pipefail

nextest=0.9.143
# The model that tests think with, and what they listen with and to; the hashes are in models.toml.
models=(smollm2-135m silero-vad smart-turn-v3.2 onnxruntime-1.22.1 speech-jfk)

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
if cargo nextest --version >/dev/null 2>&1; then
  run=(cargo nextest run --workspace --locked)
  options=()
else
  run=(cargo test --workspace --locked --no-fail-fast)
  options=(-- --test-threads=1)
fi
# Builds the programs too: end-to-end tests start them, and one of them fetches the models. Built on their own they would have
# other features, and all they stand on would be compiled twice.
"${run[@]}" --no-run
target/debug/tandem models pull "${models[@]}"
"${run[@]}" "${options[@]}"

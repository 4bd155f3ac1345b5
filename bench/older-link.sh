#!/usr/bin/env bash
# Builds this commit's `tandem` once more with an older version of the link between nodes, for the fault `older-peer`.
# usage: bench/older-link.sh [FOLDER]
#   FOLDER is where `bench/faults.py --programs` looks, target/release unless given
set -euo pipefail

root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
folder=${1:-$root/target/release}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git -C "$root" archive HEAD | tar -x -C "$work"
version=$work/crates/node/src/link/desk.rs
sed -i -E 's/(LINK_VERSION: u32 = )[0-9]+;/\10;/' "$version"
grep -q 'LINK_VERSION: u32 = 0;' "$version"
(cd "$work" && CARGO_TARGET_DIR=$root/target/older-link cargo build --release --locked -p tandem)
install -D "$root/target/older-link/release/tandem" "$folder/older-link/tandem"
ln -sf ../tandem-llama "$folder/older-link/tandem-llama"

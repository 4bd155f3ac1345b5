#!/usr/bin/env bash
# Builds the programs for release, llama.cpp for the processor of this machine: left to itself it is compiled for any processor
# with AVX2. The engine refuses to run where it would use instructions that a processor does not have.
# usage: scripts/build.sh [--show]
#   --show only prints what llama.cpp is compiled with; $CPUINFO is read instead of /proc/cpuinfo
set -euo pipefail

cpuinfo=${CPUINFO:-/proc/cpuinfo}
options=()

# Says ON when the processor has all of these, else OFF.
option() {
  local name=$1 value=ON
  shift
  for flag in "$@"; do [[ $has == *" $flag "* ]] || value=OFF; done
  options+=("$name=$value")
}

if [ "$(uname -m)" = x86_64 ] && [ -r "$cpuinfo" ]; then
  has=" $(sed -n 's/^flags[[:space:]]*: //p' "$cpuinfo" | head -n 1) "
  wide=(avx512f avx512cd avx512vl avx512dq avx512bw)
  option GGML_AVX avx
  option GGML_AVX2 avx avx2
  option GGML_FMA fma
  option GGML_F16C f16c
  option GGML_BMI2 bmi2
  option GGML_AVX_VNNI avx2 avx_vnni
  option GGML_AVX512 "${wide[@]}"
  option GGML_AVX512_VBMI "${wide[@]}" avx512vbmi
  option GGML_AVX512_VNNI "${wide[@]}" avx512_vnni
  option GGML_AVX512_BF16 "${wide[@]}" avx512_bf16
fi
if [ "${1:-}" = --show ]; then
  printf '%s\n' "${options[@]}"
  exit
fi

# CMake keeps what it was told first, so what was compiled otherwise goes.
for cache in "${CARGO_TARGET_DIR:-target}"/release/build/llama-cpp-sys-2-*/out/build/CMakeCache.txt; do
  [ -f "$cache" ] || continue
  for option in "${options[@]}"; do
    if ! grep -qx "${option%=*}:[A-Z]*=${option#*=}" "$cache"; then
      cargo clean --release --locked -p llama-cpp-sys-2
      break 2
    fi
  done
done
env "${options[@]}" cargo build --release --locked -p tandem -p tandem-engine-llama

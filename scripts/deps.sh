#!/usr/bin/env bash
# Installs the system packages that building and running Tandem needs, where they are missing; with `tests`, also those that
# only its tests need. Asks first, unless this runs as root without a person at the terminal (CI).
# usage: scripts/deps.sh [tests]
set -euo pipefail

packages=(build-essential cmake libclang-dev pkg-config python3 python3-pip ca-certificates)
commands=(cc c++ make cmake pkg-config python3)
if [ "${1:-}" = tests ]; then
  # The page is tried in a browser, and the API through a client that wants an environment of its own.
  python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
  browser=$(command -v "${CHROMIUM:-chromium}" chromium-browser google-chrome | head -n 1 || true)
  if [ -z "$browser" ]; then
    packages+=(chromium fonts-dejavu-core)
    commands+=(chromium)
  fi
fi

missing() {
  local found=()
  if command -v dpkg-query >/dev/null; then
    for package in "${packages[@]}"; do
      dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || found+=("$package")
    done
  fi
  echo "${found[@]}"
}

lacking_commands() {
  for command in "${commands[@]}"; do command -v "$command" >/dev/null || echo "$command"; done
}

if ! command -v cargo >/dev/null; then
  echo "error: there is no Rust here; https://rustup.rs installs it, rust-toolchain.toml says which version" >&2
  exit 1
fi

if ! command -v apt-get >/dev/null; then
  lacking=$(lacking_commands | tr '\n' ' ')
  if [ -n "$lacking" ]; then
    echo "error: these are missing, and there is no apt-get to install them with: $lacking" >&2
    echo "  install what your system calls: ${packages[*]}" >&2
    exit 1
  fi
  exit 0
fi

read -r -a wanted <<<"$(missing)"
if [ "${#wanted[@]}" -eq 0 ]; then exit 0; fi

echo "system packages to install: ${wanted[*]}"
sudo=""
if [ "$(id -u)" -ne 0 ]; then sudo="sudo"; fi
if [ -n "$sudo" ] && ! command -v sudo >/dev/null; then
  echo "error: there is no sudo here; as root: apt-get install --no-install-recommends ${wanted[*]}" >&2
  exit 1
fi
if [ -z "${CI:-}" ] && { [ -n "$sudo" ] || [ -t 0 ]; }; then
  if [ ! -t 0 ]; then
    echo "error: nobody is there to ask; install them, or run this with CI=1" >&2
    exit 1
  fi
  read -r -p "install them with ${sudo:+$sudo }apt-get? [Y/n] " answer
  case "$answer" in
    "" | y | Y | yes) ;;
    *) echo "error: not installed; the build needs them" >&2; exit 1 ;;
  esac
fi
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
echo "installed: ${wanted[*]}"

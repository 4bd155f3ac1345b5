#!/usr/bin/env bash
# Gets the clients that tests use a fleet through: a browser's driver, the official OpenAI client, and Node where this
# machine's own is missing or too old. Versions are pinned by hash; what is there already stays.
# Prints the PATH to find them by. The browser itself is a system package; see scripts/deps.sh.
# usage: PATH=$(scripts/clients.sh)
set -euo pipefail

cd "$(dirname "$0")/.."
cache=${TANDEM_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set, and neither is TANDEM_CACHE}/.cache}/tandem}

# A Python environment that holds what scripts/python/NAME.txt lists.
environment() {
  local name=$1 list=scripts/python/$1.txt folder=$cache/clients/$1
  if ! cmp -s "$list" "$folder/made-from.txt"; then
    echo "installing $name under $folder" >&2
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$list" >&2
    cp "$list" "$folder/made-from.txt"
  fi
}

# What `engines` in web/package.json asks for.
node_will_do() {
  command -v npm >/dev/null && node -e '
    const [major, minor] = process.versions.node.split(".").map(Number);
    process.exit(major > 22 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19) ? 0 : 1)' 2>/dev/null
}

environment openai
if ! node_will_do; then
  environment node
  PATH=$cache/clients/node/bin:$PATH
fi
if ! cmp -s web/package-lock.json web/node_modules/.made-from.json; then
  echo "installing the page's tools under web/node_modules" >&2
  (cd web && npm ci --no-audit --no-fund --loglevel=error >&2)
  cp web/package-lock.json web/node_modules/.made-from.json
fi
echo "$PATH"

#!/usr/bin/env bash
# Installs what building, testing and the demo need and this machine lacks. Quick when all is there.
set -euo pipefail

say() { echo "setup: $*" >&2; }

# A command, and the Debian package that brings it.
needed=(
  Rscript:r-base-core
  python3:python3
  curl:curl
  jq:jq
  cc:build-essential
)

packages=()
for pair in "${needed[@]}"; do
  command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}")
done

if [ ${#packages[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    say "missing: ${packages[*]} (Debian's names); install them by this system's means"
    exit 1
  fi
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      say "missing: ${packages[*]}; as root: apt-get install ${packages[*]}"
      exit 1
    fi
    as_root=(sudo)
  fi
  say "installing ${packages[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null; then
  say "no cargo: install Rust by https://rustup.rs, open a new shell, and try again"
  exit 1
fi

#!/usr/bin/env bash
# Installs what building, testing and the demo need and this machine lacks (Debian, Ubuntu); with `peers`
# also what the bench compares with. Quick when all is there.
set -euo pipefail

say() { echo "setup: $*" >&2; }

packages=()

command_from() { # command_from PACKAGE COMMAND: Debian's package that brings a command
  command -v "$2" >/dev/null || packages+=("$1")
}

module_from() { # module_from PACKAGE MODULE: Debian's package that brings a module of Python
  python3 -c "import $2" 2>/dev/null || packages+=("$1")
}

package_of_r() { # package_of_r PACKAGE: of R, from the package of Debian that is called after it
  local has="quit(status = !requireNamespace('$1', quietly = TRUE))"
  Rscript --vanilla -e "$has" >/dev/null 2>&1 || packages+=("r-cran-$1")
}

# What agents run, and what the demo speaks with.
command_from r-base-core Rscript
command_from python3 python3
command_from curl curl
command_from jq jq
command_from openssl openssl
command_from build-essential cc

# What tests compare with and install with: furrr and GNU parallel, which do the same work another
# way; pictures; pip; a virtual environment for what checks the API.
module_from python3-venv ensurepip
module_from python3-pip pip
command_from parallel parallel
command_from imagemagick identify
package_of_r furrr

# What tests break things with: the other database, clocks that jump, networks of one's own.
if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! command -v initdb >/dev/null; then
  packages+=(postgresql)
fi
compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || packages+=(libfaketime)
command_from util-linux setpriv
command_from iproute2 ip

# What `make bench-peers` installs beside Python's packages: Celery speaks by Redis, and the client of farrow in R by
# curl, with digests by OpenSSL.
if [ "${1:-}" = peers ]; then
  command_from redis-server redis-server
  package_of_r curl
  package_of_r openssl
fi

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
  if [[ " ${packages[*]} " == *" postgresql "* ]]; then
    # Tests start their own; none of the system's is made beside it.
    without=/etc/postgresql-common/createcluster.d/farrow-without-a-cluster.conf
    "${as_root[@]}" mkdir -p "${without%/*}"
    echo "create_main_cluster = false" | "${as_root[@]}" tee "$without" >/dev/null
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null; then
  say "no cargo: install Rust by https://rustup.rs, open a new shell, and try again"
  exit 1
fi

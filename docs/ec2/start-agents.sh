#!/bin/bash
# start-agents.sh KEY.pem USER@HOST…: makes each host an agent, over ssh. Run again, it brings a new
# program. FARROW_URL and FARROW_TOKEN say where the server is; the settings of install-agent.sh
# are passed on. PROGRAM is the program, built for the hosts.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
program=${PROGRAM:-$here/../../target/release/farrow}
[ $# -ge 2 ] || { echo "usage: $0 KEY.pem USER@HOST…" >&2 && exit 2; }
key=$1
shift

options=(-i "$key" -o IdentitiesOnly=yes -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=15
  -o StrictHostKeyChecking=accept-new)
# An address that was another instance's yesterday has another key today.
options+=(-o "UserKnownHostsFile=${KNOWN_HOSTS:-$HOME/.ssh/known_hosts.farrow}" ${SSH_OPTIONS:-})

settings() { # the settings as shell text: on standard input no other user of either machine sees them
  local name
  export FARROW_PROGRAM=$1
  for name in FARROW_URL FARROW_CA FARROW_TOKEN FARROW_PROGRAM FARROW_RUNTIMES FARROW_SLOTS FARROW_LABEL INSTANCE_METADATA SPOT; do
    [ -z "${!name:-}" ] || printf 'export %s=%q\n' "$name" "${!name}"
  done
}

failed=()
for host; do
  echo "== $host" >&2
  folder=$(ssh "${options[@]}" "$host" mktemp -d) &&
    scp -q "${options[@]}" "$program" "$host:$folder/farrow" &&
    { settings "$folder/farrow" && cat "$here/install-agent.sh"; } | ssh "${options[@]}" "$host" sudo bash -s &&
    ssh "${options[@]}" "$host" rm -r "$folder" || failed+=("$host")
done
[ ${#failed[@]} -eq 0 ] || { echo "not started: ${failed[*]}" >&2 && exit 1; }

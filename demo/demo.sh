#!/usr/bin/env bash
# The work of furrr's vignette on remote machines, done by curl: three models on agents, then eight
# two-second elements on two agents of four slots. Ends with an error if anything is not as it should be.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
farrow=$(realpath "${FARROW:-$here/../target/debug/farrow}")
work=$(mktemp -d)
pids=()

stop_all() {
  local code=$? pid
  # The agents first: they hand back what they hold while the server is still there.
  for pid in "${pids[@]:1}" "${pids[@]:0:1}"; do
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  if [ "$code" -ne 0 ]; then
    echo "the demo failed; what the server and the agents logged:" >&2
    tail -n 20 "$work"/*.log >&2 || true
  fi
  rm -rf "$work"
  exit "$code"
}
trap stop_all EXIT
trap 'exit 130' INT TERM

# --- The pieces ---------------------------------------------------------------------------------

start() { # start NAME COMMAND…: in the background, its log in a file
  local name=$1
  shift
  "$@" >"$work/$name.out" 2>"$work/$name.log" &
  pids+=($!)
}

until_true() { # until_true WHAT COMMAND…: asks five times a second, for a minute
  local what=$1 tries
  shift
  for ((tries = 0; tries < 300; tries++)); do
    "$@" && return
    sleep 0.2
  done
  echo "gave up waiting: $what" >&2
  return 1
}

ask() { curl --silent --show-error --max-time 60 -H "Authorization: Bearer $FARROW_TOKEN" "$@"; }

seconds_since() { jq -n --arg began "$1" --arg now "$EPOCHREALTIME" '($now | tonumber) - ($began | tonumber)'; }

submit() { # submit FILE: prints the job's id
  ask --fail-with-body "$url/v1/jobs" -H 'Content-Type: application/json' --data-binary @"$1" | jq -er .id
}

fetch_value() { # fetch_value ID: asks until it is there, saying what each answer was; value in $work/value
  local status last=
  while :; do
    status=$(ask -o "$work/value" -w '%{http_code}' "$url/v1/jobs/$1/value?wait=${wait:-30}")
    [ "$status" = "$last" ] || printf '  GET /v1/jobs/%s/value  %s\n' "$1" "$status"
    last=$status
    case $status in
      200) return ;;
      202) sleep "${pause:-0}" ;;
      *) jq . "$work/value" >&2 && return 1 ;;
    esac
  done
}

timed() { # timed FILE: submits and fetches; seconds in $seconds
  local began=$EPOCHREALTIME id
  id=$(submit "$1")
  fetch_value "$id"
  seconds=$(seconds_since "$began")
}

# --- A server and two agents of four slots ------------------------------------------------------

FARROW_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export FARROW_TOKEN
unset FARROW_TOKEN_FILE FARROW_DATA FARROW_URL

start server "$farrow" server --listen 127.0.0.1:0 --data "$work/data" --json
until_true "the server starts" test -s "$work/server.out"
url=$(jq -er .url "$work/server.out")
until_true "the server is ready" curl --silent --fail --output /dev/null "$url/readyz"
for name in one two; do
  start "agent-$name" "$farrow" agent --server "$url" --name "$name" --slots 4 --scratch "$work/scratch-$name"
done
agents_are_there() { ask "$url/v1/agents" | jq -e '[.items[] | select(.state == "live")] | length == 2' >/dev/null; }
until_true "two agents register" agents_are_there
echo "A server at $url and its agents:"
ask "$url/v1/agents" | jq -r '.items | sort_by(.name)[] | "  \(.name): \(.slots) slots, R \(.runtimes.r // "missing")"'

# --- 1. Three models ----------------------------------------------------------------------------

echo
echo "1. lm(mpg ~ cyl + hp + wt) for each gear of mtcars (demo/models.json):"
id=$(submit "$here/models.json")
wait=0 pause=0.1 fetch_value "$id"
jq -r '["gear", "(Intercept)", "cyl", "hp", "wt"],
       (to_entries[] | [.key + 3, .value["(Intercept)", "cyl", "hp", "wt"]]) | @tsv' "$work/value" |
  while IFS=$'\t' read -r -a cells; do printf '  %-4s  %20s  %20s  %20s  %20s\n' "${cells[@]}"; done
jq -en --slurpfile got "$work/value" --slurpfile known "$here/coefficients.json" '
  def same($a; $b): ($a - $b | fabs) <= 1e-12 * ($b | fabs);
  [range(3) as $i | $known[0][$i] | to_entries[] | same($got[0][$i][.key]; .value)] | length == 12 and all' >/dev/null || {
  echo "these are not the coefficients that R computes by itself (demo/coefficients.json)" >&2
  exit 1
}
echo "  equal to R's own to 1e-12"

# --- 2. The topology ----------------------------------------------------------------------------

echo
echo "2. plan(list(cluster, multisession)): two outer elements of four, two seconds each (demo/topology.json):"
timed "$here/topology.json"
first=$seconds
timed "$here/topology.json"
jq -r 'to_entries[] | "  [[\(.key + 1)]]\n  [1] \(.value | map(tojson) | join(" "))"' "$work/value"
jq -e '. == [range(1; 3) as $i | [range(1; 5) as $j | "Instance: \($i) and core: \($j)"]]' "$work/value" >/dev/null
printf '  %.2f s from submission to value while R started in every slot, %.2f s once it ran; one after the other it takes 16 s\n' "$first" "$seconds"

# --- 3. The same, flat --------------------------------------------------------------------------

echo
echo "3. The same eight as a flat map (demo/flat.json):"
timed "$here/flat.json"
jq -e '. == [range(1; 3) as $i | range(1; 5) as $j | "Instance: \($i) and core: \($j)"]' "$work/value" >/dev/null
printf '  %.2f s from submission to value\n' "$seconds"

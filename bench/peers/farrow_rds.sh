#!/bin/sh
# Submits the job of a folder: the file `elements` as a blob, the fields in the file `job`. Leaves the value in the
# file `value` there. A program of its own because a fork of R takes longer than all of a shell's.
cd "$1" || exit
api="$FARROW_URL/v1"
# No token in a program's arguments.
say() { curl -sS -H @headers "$@"; }

digest=sha256:$(sha256sum elements | cut -d ' ' -f 1)
job="{$(cat job), \"elements\": {\"blob\": \"$digest\"}}"
# One connection for both. The answer to the second is the value, if it is there in time; else where to ask for it.
status=$(say -T elements -o blob "$api/blobs/$digest" --next -sS -H @headers -H Content-Type:application/json \
  --data-binary "$job" -D answer -o value -w '%{http_code}' "$api/jobs?wait=30")
while [ "$status" = 202 ]; do
  place=$(sed -n 's/^[Ll]ocation: *\([^[:cntrl:]]*\).*/\1/p' answer)
  status=$(say -o value -w '%{http_code}' "${api%/v1}$place/value?wait=30")
done
[ "$status" = 200 ]

"""What schemathesis has to be told of this API beside its description."""

import json

import jsonschema_rs
import schemathesis

# Seconds that a request waits at the most, so that the run ends in time.
LONGEST_WAIT = 0.2
# Seconds that the API lets anybody wait. What it refuses is sent as it was generated.
LONGEST_ACCEPTED = 60


@schemathesis.serializer("application/vnd.farrow.envelope")
def envelope(ctx, value):
    """A body of the agents' protocol: the length of a JSON header, the header, payload bytes."""
    if isinstance(value, bytes):
        return {"data": value}
    header = json.dumps(value).encode()
    return {"data": len(header).to_bytes(4, "little") + header + b"payload"}


def shortened(wait):
    """`wait`, or less of it where that changes nothing but the time that this takes."""
    try:
        seconds = float(wait)
    except (TypeError, ValueError):
        return wait
    return LONGEST_WAIT if LONGEST_WAIT < seconds <= LONGEST_ACCEPTED else wait


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Nobody waits long for what becomes of a generated job."""
    query, headers, body = case.query, case.headers, case.body
    if query and "wait" in query:
        query["wait"] = shortened(query["wait"])
    if headers and "wait" in str(headers.get("Prefer", "")):
        headers["Prefer"] = "wait=0"
    # Agents say in the body how long they wait, and may wait any number of seconds.
    if isinstance(body, dict) and isinstance(body.get("wait"), (int, float)):
        body["wait"] = min(body["wait"], LONGEST_WAIT)


@schemathesis.check
def lines_are_as_described(ctx, response, case):
    """Of NDJSON each line is what is described, which schemathesis itself does not look at."""
    media_type = "application/x-ndjson"
    if response.status_code != 200 or media_type not in response.headers.get("content-type", [""])[0]:
        return
    api = case.operation.schema.raw_schema
    answers = api["paths"][case.operation.path][case.operation.method.lower()]["responses"]
    line = answers["200"]["content"][media_type]["schema"]
    validator = jsonschema_rs.validator_for({**line, "components": api["components"]})
    for text in response.content.splitlines():
        validator.validate(json.loads(text))

"""Writes inputs from which fuzzing starts: what R, Python, agents and clients really send.

Usage: seeds.py FOLDER. Each target gets a folder of its own there.
"""

import base64
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

# What R's own `serialize` makes of values of every kind that is translated, and of some that are not.
R_VALUES = """
list(NULL, TRUE, NA, 1L, NA_integer_, 2.5, NaN, -Inf, "a", "\\u00e4", NA_character_, 1:3, 1:1000000,
  c(a = 1, b = 2), list(a = 1, "b", list()), matrix(1:6, 2), array(1:8, c(2, 2, 2)),
  data.frame(x = 1:2, y = c("a", "b")), data.frame(), factor(c("u", "v", NA)), Sys.Date(),
  as.POSIXct("2026-08-01", tz = "UTC"), I(1), I("a"), as.raw(1:3), 1i, quote(a + b), function(x, ...) x + 1,
  new.env(), globalenv(), as.name("s"), expression(a, b), compiler::cmpfun(function(x) x),
  structure(list(1), class = "other"), rep("x", 3), numeric(0), character(0),
  list(integer(0), list(1L, "v"), list()), list("simpleError", "no", "f(x)", c("f(x)", "g()")),
  list(0L, "warning", "careful", NULL), setNames(1:2, c("", "a")), as.character(1:1000000),
  as.character(c(0.5, 1e-20)),
  list(integer(0), list(1L, NULL), list(list(1L, "simpleError", "no", NULL, "f(x)"))),
  list(1L, list(1L, serialize(as.character(1:3), NULL, xdr = FALSE)), list()),
  list(integer(0), list(as.raw(1), NULL), list(list(1L, "e", "no", "f(x)", "f(x)")), "bytes"),
  list(integer(0), serialize(list(1, NULL, "a", as.raw(1)), NULL, xdr = FALSE), list(), "rds"),
  list(NULL, TRUE, 1i, c("a", NA), as.raw(1)))
"""

R_SCRIPT = f"""
folder <- commandArgs(TRUE)[[1]]
values <- {R_VALUES}
for (i in seq_along(values)) {{
  writeBin(serialize(values[[i]], NULL, xdr = FALSE), file.path(folder, paste0("r-", i)))
  writeBin(serialize(values[[i]], NULL, version = 2 + i %% 2), file.path(folder, paste0("xdr-", i)))
}}
"""

JSON_TEXTS = [
    "null", "true", "1", "-0.0", "1e-7", "3000000000", '"a\\u00e4\\ud83d\\ude00"', "[1, null, 2.5]",
    '["a", null]', "[true, false]", "[]", "{}", "[[1, 2], [3, 4]]", "[[1, 2], [3]]",
    '[{"a": 1, "b": "x"}, {"a": null}]', '[{"a": [1]}, {"b": {}}]',
    '[{"a": [1, 2], "b": 3, "a": 4}, {"a": 5}]', '{"a": [1, {"b": []}], "": 1}',
    '[1, "a", true, null, {"a": [[]]}]', "[[[[[[1]]]]]]", '{"a": 1, "a": 2}',
]

SUBMISSIONS = [
    {"runtime": "python", "function": "lambda x: x", "elements": [1, "a", None, {"b": [1.0]}]},
    {"runtime": "r", "function": "function(x) x", "elements": {"a": 1, "b": [2], "c": 3}},
    {"runtime": "r", "function": "function(x, y) x", "elements": {"range": [0, 10]},
     "args": {"y": 1}, "globals": {"g": [1, 2]}, "packages": {"library": ["stats"]}},
    {"runtime": "python", "function": "f", "elements": [[1, 2], {"a": 3}, []],
     "plan": [{"strategy": "cluster"}, {"strategy": "multisession"}]},
    {"runtime": "python", "function": "f", "elements": {"u": [1], "v": []},
     "plan": [{"strategy": "cluster"}, {"strategy": "sequential"}]},
    {"runtime": "python", "function": "f", "elements": ["AAEC", ""], "options": {"encoding": "bytes"}},
    {"runtime": "command", "function": ["echo", "{}"], "elements": [1],
     "options": {"output": "json", "timeout": 1.5, "retries": 3, "labels": {"a": "b"}}},
    {"runtime": "python", "function": "f",
     "elements": {"blob": "sha256:" + "0" * 64}, "name": "n", "workdir": "/tmp"},
    {"runtime": "python", "function": "f", "prepare": {"script": "true"}, "setup": "x = 1",
     "files": [{"path": "a/b", "content": "text"}], "after": ["019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42"]},
    {"runtime": "python", "function": "lambda: 1"},
    {"runtime": "python", "function": "f", "elements": {"range": [-(1 << 63), (1 << 63) - 1]}},
    {"runtime": "r", "function": "f", "elements": [1], "options": {"seed": 42, "variant": "imap",
     "value_type": "list", "on_error": "collect", "chunk_size": 2, "priority": 1, "cores": 2,
     "slots": 1, "memory": 1000000, "retry_on_error": True, "stdout": False, "conditions": False}},
]

ID = "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42"


def cursor(place: str) -> str:
    """Where a list goes on, as the server writes it."""
    return base64.urlsafe_b64encode(f"after:{place}".encode()).decode().rstrip("=")


# The list, by its number in the target, and a query.
QUERIES = [
    (0, ""), (0, f"limit=10&state=running&after={cursor(ID)}"), (0, f"id={ID}&id={ID[:-1]}3"),
    (0, "state=done"), (0, "after=%00"), (0, "limit=many"), (0, "limit=1&limit=1"),
    (1, f"after={cursor(ID)}&gone=true"), (2, f"name=ada%27s+laptop&after={cursor(ID)}"),
    (3, f"object={ID}&after={cursor(ID + '/' + ID)}"), (3, f"after={cursor('/')}"),
    (4, "state=failed&order=completion&after=41&limit=5&wait=1.5"), (4, "order=index"),
    (5, "after=4096&element=7&source=prepare&wait=30"), (5, "after=18446744073709551615"), (5, "end"),
]

PIECE = {
    "lease": "019aab1f-0a2b-7c3d-9e4f-5a6b7c8d9e0f", "job": ID, "first": 40, "lengths": [2, 60, 0],
    "errors": [1], "slot": 0, "pid": 4711, "started_at": 1795428000000, "seconds": 0.5,
    "notes": [{"position": 0, "attempts": 2, "stdout": "fitting\n", "stderr": "slow\n", "dropped": 10,
               "conditions": [{"kind": "warning", "message": "NaNs", "call": "log(-1)"}]}],
}


def frame(kind: str, body: bytes) -> bytes:
    """A frame as workers and bodies have it: length, kind, payload."""
    return struct.pack("<IB", len(body), ord(kind)) + body


def python_outcomes() -> bytes:
    """Two values and an error, as the Python worker writes them."""
    error = {"type": "ValueError", "message": "no", "call": None, "traceback": ["f"], "fatal": False}
    texts = [b"1", b'"two"', json.dumps(error).encode()]
    lengths = [len(texts[0]), len(texts[1]), len(texts[2]) | 1 << 31]
    return struct.pack("<4I", 3, *lengths) + b"".join(texts)


def envelope(header: object, payload: bytes) -> bytes:
    """A header and what it speaks of."""
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + payload


def main() -> None:
    folder = Path(sys.argv[1])

    def write(target: str, name: str, content: bytes) -> None:
        (folder / target).mkdir(parents=True, exist_ok=True)
        (folder / target / name).write_bytes(content)

    write("r_to_json", "empty", b"")
    r_folder = folder / "r_to_json"
    subprocess.run(["Rscript", "--vanilla", "-e", R_SCRIPT, str(r_folder)], check=True)

    # Only what is joined may stand in the other order.
    for path in sorted(r_folder.iterdir()):
        write("r_spliced", path.name, path.read_bytes())
        if path.name.startswith("xdr-"):
            path.unlink()

    # What workers say: the first byte chooses among three runtimes, and behind that six kinds.
    error = {"type": "ValueError", "message": "no", "call": None, "traceback": ["f"]}
    condition = {"position": 0, "kind": "warning", "message": "careful", "call": "f(x)"}
    answers = [(0, kind, path.read_bytes()) for path in sorted(r_folder.glob("r-*")) for kind in "jcop"]
    for runtime in (1, 2):
        answers += [(runtime, "h", b'{"version": "3.11"}'), (runtime, "j", json.dumps(error).encode())]
    answers += [(1, "c", json.dumps(condition).encode()), (1, "o", python_outcomes()), (0, "j", b""),
                (2, "o", b'v{"a": 1}'), (2, "p", b"e" + json.dumps(error).encode()), (0, "r", b"")]
    for i, (runtime, kind, body) in enumerate(answers):
        write("worker_answers", str(i), bytes([runtime + 3 * "hjcopr".index(kind)]) + body)
    stream = frame("h", b'{"version": "3.11"}') + frame("j", b"") + frame("o", b"ab") + frame("p", b"")
    for cut in (0, 7, 300):
        write("worker_frames", str(cut), struct.pack("<H", cut) + stream + frame("r", b"")[:cut % 5])
    write("worker_frames", "printed", struct.pack("<H", 3) + b"what user code printed")

    for i, text in enumerate(JSON_TEXTS):
        write("json_to_r", str(i), text.encode())
    deep = 256
    write("json_to_r", "deep", b"[" * deep + b"{}" + b"]" * deep)
    # As deep as nothing may be: what bounds the depth is all that stands before the stack's end.
    write("json_to_r", "too-deep", b"[" * 4000 + b"]" * 4000)
    null = (r_folder / "r-1").read_bytes()
    write("r_to_json", "too-deep", null[:-4] + struct.pack("<II", 19, 1) * 2000 + null[-4:])
    write("json_to_r", "deep-rows", b'[{"a":' * (deep // 2) + b"1" + b"}]" * (deep // 2))

    lines = "\n".join(JSON_TEXTS).encode()
    nested_lines = b"[1, 2]\n\n[]\r\n[{}]"
    plain = frame("v", b"a") + frame("v", b"")
    named = frame("k", b"a") + frame("v", b"x") + frame("k", b"b") + frame("v", b"y")
    groups = frame("g", b'{"n": 2, "name": "u"}') + plain + frame("g", b'{"n": 0, "name": "v"}')
    for i, (how, blob) in enumerate([(0, lines), (2, nested_lines), (1, plain), (1, named), (3, groups)]):
        for at_a_time in (0, 5, 63):
            write("elements_of_blob", f"{i}-{at_a_time}", bytes([how | at_a_time << 2]) + blob)
    for i, body in enumerate([plain, named, groups, groups[:-1]]):
        write("value_frames", str(i), struct.pack("<H", 7 * i) + body)

    outcome = json.dumps(error).ljust(60).encode()[:60]
    write("report", "piece", envelope({"pieces": [PIECE]}, b"12" + outcome))
    write("report", "two", envelope({"pieces": [PIECE, PIECE]}, (b"12" + outcome) * 2))
    write("report", "short", envelope({"pieces": [PIECE]}, b"12"))
    write("report", "none", envelope({"pieces": []}, b""))
    for i, (of, query) in enumerate(QUERIES):
        write("cursors", str(i), bytes([of]) + query.encode())
    for i, job in enumerate(SUBMISSIONS):
        write("submission", str(i), json.dumps(job).encode())
    write("submission", "names", b"abcda")
    write("report", "numbers", bytes([40, 3, 1, 1, 2, 0, 1]) + b"payload")
    write("blocks", "payloads", b"\x01\0\x03\0one\0two\0three\0four")
    write("blocks", "lengths", b"\0\0\0\0\x01\x80\x01\xff\xff\xff\xff\x0f")
    # Twelve bytes of lz4: a literal, and a match behind it that repeats it.
    write("blocks", "row", b"\0\0\0\0\x0c\0\0\0\x14a\x01\0\x30aaa")
    record = envelope({"a": 1}, b"body")
    record = struct.pack("<II", len(record), zlib.crc32(record)) + record
    write("spool_records", "bodies", struct.pack("<HHB", 20, 9, 1) + b"one\0\0three")
    write("spool_records", "file", struct.pack("<HHB", 40, 0, 0) + record * 2 + b"\0" * 16)


main()

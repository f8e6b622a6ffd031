"""Writes inputs from which fuzzing starts: what R, Python, agents and clients really send.

Usage: seeds.py FOLDER. Each target gets a folder of its own there.
"""

import json
import struct
import subprocess
import sys
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
  list(0L, "warning", "careful", NULL), setNames(1:2, c("", "a")))
"""

R_SCRIPT = f"""
folder <- commandArgs(TRUE)[[1]]
values <- {R_VALUES}
for (i in seq_along(values)) {{
  writeBin(serialize(values[[i]], NULL, xdr = FALSE), file.path(folder, paste0("r-", i)))
}}
"""

JSON_TEXTS = [
    "null", "true", "1", "-0.0", "1e-7", "3000000000", '"a\\u00e4\\ud83d\\ude00"', "[1, null, 2.5]",
    '["a", null]', "[true, false]", "[]", "{}", "[[1, 2], [3, 4]]", "[[1, 2], [3]]",
    '[{"a": 1, "b": "x"}, {"a": null}]', '[{"a": [1]}, {"b": {}}]', '{"a": [1, {"b": []}], "": 1}',
    '[1, "a", true, null, {"a": [[]]}]', "[[[[[[1]]]]]]", '{"a": 1, "a": 2}',
]

SUBMISSIONS = [
    {"runtime": "python", "function": "lambda x: x", "elements": [1, "a", None, {"b": [1.0]}]},
    {"runtime": "r", "function": "function(x) x", "elements": {"a": 1, "b": [2]}},
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
    {"runtime": "r", "function": "f", "elements": [1], "options": {"seed": 42, "variant": "imap",
     "value_type": "list", "on_error": "collect", "chunk_size": 2, "priority": 1, "cores": 2,
     "slots": 1, "memory": 1000000, "retry_on_error": True, "stdout": False, "conditions": False}},
]

QUERIES = [
    "", "limit=10&state=running", "after=YWZ0ZXI6MDE5YWFiMWUtN2MzZi03YTUxLTlkN2UtNWIyZjBjNmExZDQy",
    "id=019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42&id=019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d43", "state=done",
    "after=%00", "limit=many", "limit=1001&limit=1",
]


def frame(kind: str, body: bytes) -> bytes:
    """A frame as workers and bodies have it: length, kind, payload."""
    return struct.pack("<IB", len(body), ord(kind)) + body


def python_outcomes() -> bytes:
    """Two values and an error, as the Python worker writes them."""
    error = {"kind": "ValueError", "message": "no", "call": None, "traceback": ["f"], "fatal": False}
    texts = [b"1", b'"two"', json.dumps(error).encode()]
    lengths = [len(texts[0]), len(texts[1]), len(texts[2]) | 1 << 31]
    return struct.pack("<4I", 3, *lengths) + b"".join(texts)


def main() -> None:
    folder = Path(sys.argv[1])

    def write(target: str, name: str, content: bytes) -> None:
        (folder / target).mkdir(parents=True, exist_ok=True)
        (folder / target / name).write_bytes(content)

    write("r_to_json", "empty", b"")
    r_folder = folder / "r_to_json"
    subprocess.run(["Rscript", "--vanilla", "-e", R_SCRIPT, str(r_folder)], check=True)
    for path in r_folder.glob("r-*"):
        # What the R worker says is such a value in a frame.
        for kind in "jcop":
            write("worker_frames", f"{path.name}-{kind}", b"\x07" + frame(kind, path.read_bytes()))
    hello = json.dumps({"runtime": "python", "version": "3.11", "pid": 1}).encode()
    condition = {"position": 0, "kind": "warning", "message": "careful", "call": "f(x)"}
    stream = (frame("h", hello) + frame("j", b"") + frame("c", json.dumps(condition).encode())
              + frame("o", python_outcomes()) + frame("p", python_outcomes()) + frame("r", b""))
    for cut in (0, 6, 255):
        write("worker_frames", f"python-{cut}", bytes([cut]) + stream)
    for i, text in enumerate(JSON_TEXTS):
        write("json_to_r", str(i), text.encode())
    lines = "\n".join(JSON_TEXTS).encode()
    nested_lines = b"[1, 2]\n\n[]\r\n[{}]"
    plain = frame("v", b"a") + frame("v", b"")
    named = frame("k", b"a") + frame("v", b"x") + frame("k", b"b") + frame("v", b"y")
    groups = frame("g", b'{"n": 2, "name": "u"}') + plain + frame("g", b'{"n": 0, "name": "v"}')
    for i, (how, blob) in enumerate([(0, lines), (2, nested_lines), (1, plain), (1, named), (3, groups)]):
        for at_a_time in (0, 5, 63):
            write("elements_of_blob", f"{i}-{at_a_time}", bytes([how | at_a_time << 2]) + blob)
    header = json.dumps({"lengths": [1, 2]}).encode()
    for i, body in enumerate([plain, named, groups, struct.pack("<I", len(header)) + header + b"abc"]):
        write("body_frames", str(i), body)
    for i, query in enumerate(QUERIES):
        write("list_query", str(i), query.encode())
    for i, job in enumerate(SUBMISSIONS):
        write("submission", str(i), json.dumps(job).encode())


main()

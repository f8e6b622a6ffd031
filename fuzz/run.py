"""Fuzzes each target for a bounded time and prints what was tried: run by `make fuzz`.

What a target has found stays in the folder of corpora, and the next run starts from it. An input that
breaks something is kept in the folder of artifacts, and its path is printed.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Inputs of megabytes take long and reach no other code.
LONGEST_INPUT = 16384
# A parser may take some times its input, and never as much as some number in it says: all memory of
# the process, with what the sanitizer takes, and what is asked for at once.
MOST_MEMORY_MB = 1024
MOST_AT_ONCE_MB = 64
# Of an input; a hang, not a measure of speed.
LIMIT_SECONDS = 20
# As threads of the agent and the server have it: what is nested without a bound is to overflow it.
STACK_BYTES = 2 << 20


def fuzz(target: str, options: argparse.Namespace) -> dict:
    """Runs one target and tells what came of it."""
    corpus, artifacts = options.corpora / target, options.artifacts / target
    for folder in (corpus, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    command = [
        options.programs / target, corpus, f"-max_total_time={options.seconds}",
        f"-max_len={LONGEST_INPUT}", f"-rss_limit_mb={MOST_MEMORY_MB}",
        f"-malloc_limit_mb={MOST_AT_ONCE_MB}", f"-timeout={LIMIT_SECONDS}",
        f"-artifact_prefix={artifacts}/", "-print_final_stats=1", "-verbosity=1",
    ]
    dictionary = options.dictionaries / f"{target}.dict"
    if dictionary.exists():
        command.append(f"-dict={dictionary}")
    began = time.monotonic()
    ran = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, errors="replace",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, STACK_BYTES)),
    )
    said = ran.stderr
    # The last line about its progress, should it not live to tell its statistics.
    inputs = re.findall(r"number_of_executed_units:\s*(\d+)|^#(\d+)", said, re.MULTILINE)
    edges = re.findall(r"cov: (\d+)", said)
    kept = re.search(r"Test unit written to (\S+)", said)
    return {
        "target": target, "failed": ran.returncode != 0, "said": said,
        "seconds": round(time.monotonic() - began),
        "inputs": int(max(inputs[-1], key=len)) if inputs else 0, "edges": int(edges[-1]) if edges else 0,
        "kept": kept[1] if kept else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, required=True, help="folder of the built targets")
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--dictionaries", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="+")
    options = parser.parse_args()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda target: fuzz(target, options), options.targets))
    failures = [result for result in results if result["failed"]]
    for result in failures:
        print(f"{result['target']}: {result['kept'] or 'it did not run'}\n{result['said'][-4000:]}\n")
    print(f"{'target':<20} {'seconds':>7} {'inputs tried':>14} {'covered edges':>14} {'crashes':>8}")
    for result in results:
        print(f"{result['target']:<20} {result['seconds']:>7} {result['inputs']:>14,} "
              f"{result['edges']:>14,} {int(result['failed']):>8}")
    return 1 if failures else 0


sys.exit(main())

"""Runs one contender: python program.py MODULE VARIANT WORKERS.

Says `ready`, or `missing` and what; then does each work that a line of standard input names, and
answers with a line of seconds. At the end of the input it stops what it has started. The contender
has a process of its own, because each runs in the Python in which it is installed.
"""

import importlib
import os
import sys

import work


def main():
    module, variant, workers = sys.argv[1:]
    # What contenders print must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        peer = importlib.import_module(module).Peer(int(workers), variant)
    except (ModuleNotFoundError, work.Missing) as missing:
        print("missing", missing, file=answers)
        return
    with peer:
        peer.warm_up()
        print("ready", file=answers)
        for line in sys.stdin:
            name, size = line.split()
            print(*peer.do(name, int(size)), file=answers)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measures farrow on this machine: latency, the vignette's topology, throughput, memory.

Starts a server and two agents of its own in a temporary folder, and stops them by their process
ids. Needs Python's standard library only. What it compares with runs in the same run.
"""

import argparse
import json
import os
import sys
import time

from cluster import Cluster
from parts import PARTS


def main():
    options = parse_arguments()
    results = {"machine": machine()}
    say(describe_machine(results["machine"]))
    for name in options.parts:
        # A cluster each, so that no part pays for what an earlier one left in the database.
        with Cluster(options.farrow, slots=PARTS[name].slots(options)) as cluster:
            results[name] = PARTS[name].measure(cluster, options)
            say(PARTS[name].describe(results[name]))
    results["machine"]["load_after"] = os.getloadavg()[0]
    if options.json:
        print(json.dumps(results))
    return 0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--farrow", default="target/release/farrow", help="the program to measure")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help="what to measure: " + ", ".join(PARTS))
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median is taken")
    parser.add_argument("--elements", type=int, default=100_000, help="elements of a throughput map")
    parser.add_argument("--calls", type=int, default=200, help="single calls for the latency")
    parser.add_argument("--json", action="store_true",
                        help="print the figures as one JSON document on standard output")
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


def machine():
    return {
        "cores": len(os.sched_getaffinity(0)),
        "model": cpu_model(),
        "load_before": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def describe_machine(of):
    return f"machine: {of['cores']} cores ({of['model']}), load {of['load_before']:.2f}, Python {of['python']}"


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Compares two builds of farrow on this machine, side by side in one run.

In each round every part of the bench is measured with both programs, one right after the other, the
order turned around from round to round, so that what else the machine does meets both alike. Told
are the medians over the rounds, and their ratio: below 1 the new program is quicker, or smaller.
"""

import argparse
import json
import statistics
import sys

from cluster import Cluster
from parts import PARTS


def main():
    options = parse_arguments()
    programs = {"new": options.farrow, "old": options.against}
    figures = {}
    for number in range(options.rounds):
        for name in options.parts:
            for program in sorted(programs, reverse=number % 2 == 1):
                with Cluster(programs[program], **PARTS[name].CLUSTER) as cluster:
                    headlines = PARTS[name].headlines(PARTS[name].measure(cluster, options))
                for headline, figure in headlines.items():
                    figures.setdefault(headline, {}).setdefault(program, []).append(figure)
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr, flush=True)
    rows = [row(headline, of) for headline, of in figures.items()]
    if options.json:
        print(json.dumps(rows))
        return 0
    print(f"{'':32} {'new':>12} {'old':>12}  new/old  (each round)")
    for of in rows:
        each = " ".join(f"{ratio:.2f}" for ratio in of["ratios"])
        print(f"{of['headline']:32} {of['new']:12.6g} {of['old']:12.6g}  {of['ratio']:7.2f}  ({each})")
    return 0


def row(headline, of):
    medians = {program: statistics.median(values) for program, values in of.items()}
    ratios = [new / old for new, old in zip(of["new"], of["old"])]
    return {"headline": headline, **medians, "ratio": statistics.median(ratios), "ratios": ratios}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--farrow", default="target/release/farrow", help="the new program")
    parser.add_argument("--against", required=True, help="the old program, for example built from an earlier commit")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help="what to measure: " + ", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the medians are taken")
    parser.add_argument("--repeats", type=int, default=1, help="maps of the topology a round")
    parser.add_argument("--elements", type=int, default=100_000, help="elements of a throughput map")
    parser.add_argument("--calls", type=int, default=100, help="single calls for the latency a round")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

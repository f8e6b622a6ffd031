#!/usr/bin/env python3
"""Measures farrow on this machine: by itself, and beside its peers, which do the same work in the same run.

The parts are farrow's own: latency, the vignette's topology, throughput, memory. The works are done by
farrow and by every peer that is installed, in rounds, one after the other. All that is started is
started here, in temporary folders, and stopped by its process id. Needs Python's standard library only;
`make bench-peers` installs the peers.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys

import picture
from cluster import Cluster
from contenders import CONTENDERS, LeftOut, NotHere
from machine import at_the_end, describe_change, describe_machine, machine
from parts import PARTS
from works import WORKS, table

HERE = pathlib.Path(__file__).parent


def main():
    options = parse_arguments()
    signal.signal(signal.SIGTERM, end)
    results = {"machine": machine()}
    say(describe_machine(results["machine"]))
    for name in options.parts:
        # A cluster each, so that no part pays for what an earlier one left in the database.
        with Cluster(options.farrow, **PARTS[name].CLUSTER) as cluster:
            results[name] = PARTS[name].measure(cluster, options)
            say(PARTS[name].describe(results[name]))
    left_out = {}
    for name in options.works:
        results[name] = side_by_side(WORKS[name], name, options, left_out)
        say("\n".join(["", *table(WORKS[name], CONTENDERS, results[name])]))
    results["left_out"] = left_out
    at_the_end(results["machine"])
    say(describe_change(results["machine"]))
    if options.works and options.keep:
        keep(results, options)
    if options.json:
        print(json.dumps(results))
    return 0


def side_by_side(work, name, options, left_out):
    """Each round's figures of each contender, which are measured one right after the other."""
    figures, limits = {}, {}
    for number in range(options.rounds):
        # Turned around from round to round, so that what else the machine does meets all alike.
        for contender in options.contenders[::-1 if number % 2 else 1]:
            out = {contender, f"{contender}, {name}"} & left_out.keys()
            if out or name not in CONTENDERS[contender].works:
                continue
            limit = limits.setdefault(contender, {"farrow": contender.startswith("farrow")})
            try:
                with CONTENDERS[contender].start(work.workers, options) as program:
                    measured = work.measure(program, options, limit)
            except LeftOut as why:
                left_out[contender if isinstance(why, NotHere) else f"{contender}, {name}"] = str(why)
                say(f"{CONTENDERS[contender].title} is left out: {why}")
                continue
            for figure, value in measured.items():
                figures.setdefault(contender, {}).setdefault(figure, []).append(value)
        say(f"{name}: round {number + 1} of {options.rounds} done")
    for contender, limit in limits.items():
        if limit.get("most", max(options.sizes)) < max(options.sizes):
            say(f"{CONTENDERS[contender].title}: no more than {limit['most']:,} elements, "
                f"more would take longer than {options.patience:g} s")
    return {contender: figures[contender] for contender in options.contenders if contender in figures}


def keep(results, options):
    """A line for each work and contender, and the picture of this run."""
    units = {name: WORKS[name].unit for name in options.works}
    lines = list(picture.lines_of(results, units, commit()))
    with open(HERE / "results.jsonl", "a", encoding="utf-8") as kept:
        kept.writelines(json.dumps(line) + "\n" for line in lines)
    picture.draw(lines, HERE / "results.svg")
    say("kept in bench/results.jsonl, drawn in bench/results.svg")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--farrow", default="target/release/farrow", help="the program to measure")
    parser.add_argument("--peers", default="target/peers", help="the virtual environment in which peers are installed")
    parser.add_argument("--parts", nargs="*", choices=PARTS, metavar="PART",
                        help="what to measure of farrow by itself: " + ", ".join(PARTS))
    parser.add_argument("--works", nargs="*", choices=WORKS, metavar="WORK",
                        help="what to measure beside peers: " + ", ".join(WORKS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="CONTENDER",
                        help="who does the works: " + ", ".join(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the works, of which medians are taken")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000],
                        help="elements of the maps whose rate is measured")
    parser.add_argument("--patience", type=float, default=20,
                        help="seconds that such a map may take; a contender does no larger one")
    parser.add_argument("--bytes", type=int, default=100_000_000, help="bytes of the large argument")
    parser.add_argument("--repeats", type=int, default=5, help="runs of the topology, of which the median is taken")
    parser.add_argument("--elements", type=int, default=100_000, help="elements of the throughput part's map")
    parser.add_argument("--calls", type=int, default=500,
                        help="single calls for the latency; peers make 200 of them at most")
    parser.add_argument("--no-keep", dest="keep", action="store_false",
                        help="do not append to bench/results.jsonl, nor draw bench/results.svg")
    parser.add_argument("--verbose", action="store_true", help="show what contenders say on standard error")
    parser.add_argument("--json", action="store_true",
                        help="print the figures as one JSON document on standard output")
    options = parser.parse_args()
    # What is asked for; all, if nothing is.
    everything = options.parts is None and options.works is None
    options.parts = list(PARTS) if everything else options.parts or []
    options.works = list(WORKS) if everything else options.works or []
    return options


def end(*_):
    """Whoever ends the bench ends what it has started, also where the signal comes twice, as from timeout."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def say(text):
    print(text, file=sys.stderr, flush=True)


def commit():
    """Of this folder; whoever measures another program knows which."""
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return described.stdout.strip() or None


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Measures how costs grow: processor time an element, and memory, along curves that should be flat.

The curves are the elements of a map, the jobs in the queue, the agents that wait for work, and the
number of large values. Each point has a server and an agent of two slots of its own; measured are
their processes, the agent's workers apart. What a curve is for stands at its class.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import curves
from cluster import Cluster, fail, wait_until
from machine import at_the_end, describe_change, describe_machine, machine
from parked import allow_many_connections
from run import HERE, commit, end, say
from usage import Usage

SLOTS = 2
LABELS = {"pool": "measured"}


class Elements:
    """A map of ever more trivial elements, given as a blob of lines, as the command line sends many of them."""

    title = "elements of the map, in a blob"
    sizes = {"full": [100_000, 300_000, 1_000_000, 3_000_000, 10_000_000], "quick": [30_000, 100_000, 300_000]}
    unit = "element"

    @staticmethod
    def measure(size, options):
        with cluster(options) as there:
            there.warm_up("python")
            lines = "\n".join(map(str, range(size))).encode()
            return of_map(there, size, elements=lambda: {"blob": there.client.put(lines)})


class Listed(Elements):
    """A map of ever more trivial elements, given as a list in the body of its submission."""

    title = "elements of the map, in the body"

    @staticmethod
    def measure(size, options):
        with cluster(options) as there:
            there.warm_up("python")
            return of_map(there, size)


class Jobs:
    """A map of the same size while ever more other jobs are queued.

    A third are for agents that are not there, and stand before the map in the queue; a third wait for
    a job that does not end; a third stand behind the map. None of these is run while the map's value travels: as many would
    be as fit in that time, and a job costs what some thousand elements do.
    """

    title = "other jobs in the queue"
    sizes = {"full": [1, 10, 100, 1000, 10_000], "quick": [1, 100, 1000]}
    unit = "element"
    BATCH = 1000

    @classmethod
    def measure(cls, size, options):
        with cluster(options) as there:
            there.warm_up("python")
            # The slots are held until all stands in the queue, and again while the map's value travels.
            held = there.client.submit(cls.hold(there.folder / "begin", 9))
            wait_until(lambda: there.client.get(f"/v1/jobs/{held}")["elements"]["running"] == SLOTS, "the slots to be held")
            endless = there.client.submit(cls.job(options={"labels": {"pool": "nowhere"}}))
            kinds = [cls.job(options={"labels": {"pool": "nowhere"}}), cls.job(after=[endless]),
                     cls.job(options={"priority": -2})]
            there.client.submit(cls.hold(there.folder / "end", -1))
            jobs = [kinds[number % len(kinds)] for number in range(size)]
            for first in range(0, size, cls.BATCH):
                there.client.post("/v1/jobs:batch", {"jobs": jobs[first:first + cls.BATCH]})
            figures = of_map(there, options.elements, begin=(there.folder / "begin").touch)
            (there.folder / "end").touch()
            return figures

    @staticmethod
    def hold(gate, priority):
        return {
            "runtime": "python", "elements": list(range(SLOTS)), "options": {"priority": priority, "chunk_size": 1},
            "function": f"import os, time\ndef hold(x):\n    while not os.path.exists({str(gate)!r}):\n        time.sleep(0.1)",
        }

    @staticmethod
    def job(**fields):
        return {"runtime": "python", "function": "lambda x: x", "elements": [1]} | fields


class Agents:
    """A map of the same size while ever more other agents wait for work that they cannot do."""

    title = "agents that wait for other work"
    sizes = {"full": [1, 10, 100, 1000, 10_000], "quick": [1, 100, 1000]}
    unit = "element"

    @staticmethod
    def measure(size, options):
        with cluster(options) as there, parked(there, size):
            there.warm_up("python", labels=LABELS)
            return of_map(there, options.elements, idle_seconds=10, options={"labels": LABELS})


class Values:
    """A map whose values are a megabyte each, and do not compress, read by a client that keeps none of them."""

    title = "values of 1 MB"
    sizes = {"full": [100, 300, 1000, 3000], "quick": [30, 100]}
    unit = "value"
    BYTES = 1_000_000

    @classmethod
    def measure(cls, size, options):
        with cluster(options) as there:
            there.warm_up("python")
            with Usage(there.server, there.agent) as usage:
                job = there.client.submit({"runtime": "python", "elements": list(range(size)),
                                           "function": f"import os\nlambda x: os.urandom({cls.BYTES} // 2).hex()"})
                n_bytes = there.client.count_value(job)
            # Each in quotes and with a comma or a bracket behind it, and a bracket in front of all.
            if n_bytes != size * (cls.BYTES + 3) + 1:
                fail(f"{size} values of {cls.BYTES} bytes are {n_bytes} bytes")
            return usage.figures() | {"n": size}


CURVES = {"elements": Elements, "listed": Listed, "jobs": Jobs, "agents": Agents, "values": Values}


def cluster(options):
    labels = [f"{key}={value}" for key, value in LABELS.items()]
    return Cluster(options.farrow, SLOTS, agents=("one",), labels=labels, on_postgres=options.on_postgres)


def of_map(there, size, elements=None, begin=lambda: None, idle_seconds=1.0, **fields):
    """What a map of so many trivial elements costs, from their being sent to the value."""
    with Usage(there.server, there.agent, idle_seconds) as usage:
        given = elements() if elements else list(range(size))
        job = there.client.submit({"runtime": "python", "function": "lambda x: x + 1", "elements": given} | fields)
        begin()
        value = there.client.value(job)
    if value != list(range(1, size + 1)):
        fail("the map's value is wrong")
    return usage.figures() | {"n": size}


@contextlib.contextmanager
def parked(there, n_agents):
    """So many simulated agents that wait at the server, in a process of their own."""
    with subprocess.Popen([sys.executable, HERE / "parked.py", there.address, str(n_agents)], env=there.environment,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline() or fail("the parked agents have ended")
        try:
            yield
            if process.poll() is not None:
                fail("the parked agents have ended")
        finally:
            process.stdin.close()


def figures_of(curve):
    """What is told of each point of a curve: its name, its unit, and how it is read."""
    each = f"us/{CURVES[curve].unit}"
    for part in ("server", "agent", "workers"):
        yield f"{part} CPU", each, lambda of, part=part: of["cpu"][part] / of["n"] * 1e6
    for part in ("server", "agent"):
        yield f"{part} anonymous memory, most", "bytes", lambda of, part=part: of["memory"][part]["most"]
        yield f"{part} anonymous memory, before", "bytes", lambda of, part=part: of["memory"][part]["before"]
        yield f"{part} resident memory, peak", "bytes", lambda of, part=part: of["memory"][part]["peak"]
        yield f"{part} CPU while nothing runs", "ms/s", lambda of, part=part: of["idle"][part] * 1e3
    yield "seconds", "s", lambda of: of["seconds"]


def lines_of(curve, points, about):
    """What is kept of a curve: a line for each thing that was measured, in the form of bench/results.jsonl."""
    for name, unit, figure in figures_of(curve):
        every = {f"{size:,}": [figure(of) for of in rounds] for size, rounds in points.items()}
        medians = {size: statistics.median(values) for size, values in every.items()}
        yield about | {"work": f"scale: {curve}", "contender": name, "unit": unit, "medians": medians, "all": every}


def describe(curve, lines):
    """A table for people: a row for each size, and how far the costs are from flat."""
    columns = [line for line in lines if line["contender"] in curves.COSTS or "most" in line["contender"]]
    yield f"\n{CURVES[curve].title}: {CURVES[curve].__doc__.splitlines()[0]}"
    yield f"{'':>14}" + "".join(f"{line['contender'].removesuffix(', most'):>26}" for line in columns)
    for size in lines[0]["medians"]:
        yield f"{size:>14}" + "".join(f"{told(line['medians'][size], line['unit']):>26}" for line in columns)
    yield f"{'most/first':>14}" + "".join(f"{growth(line):>26.2f}" for line in columns)


def told(figure, unit):
    return f"{figure / 2**20:.1f} MiB" if unit == "bytes" else f"{figure:.2f} {unit}"


def growth(line):
    """The largest figure of a curve over that of its smallest size: 1 where it is flat, or falls."""
    medians = list(line["medians"].values())
    return max(medians) / medians[0] if medians[0] > 0 else float("nan")


def main():
    options = parse_arguments()
    signal.signal(signal.SIGTERM, end)
    most = allow_many_connections()
    of_machine = machine()
    about = {"at": of_machine["at"], "machine": of_machine, "commit": commit(),
             "database": "PostgreSQL" if options.on_postgres else "SQLite"}
    say(describe_machine(about["machine"]))
    kept = []
    for curve in options.curves:
        points = {}
        for number in range(options.rounds):
            for size in options.sizes or CURVES[curve].sizes["quick" if options.quick else "full"]:
                if curve == "agents" and size > most - 1000:
                    say(f"left out: {size:,} agents, because a process may have {most:,} files open (ulimit -Hn)")
                    continue
                # What takes long is steady without being repeated.
                if number == 0 or sum(of["seconds"] for of in points[size]) < options.patience:
                    began = time.monotonic()
                    points.setdefault(size, []).append(CURVES[curve].measure(size, options))
                    say(f"{curve}: {size:,}, round {number + 1}, {time.monotonic() - began:.0f} s")
        lines = list(lines_of(curve, points, about))
        say("\n".join(describe(curve, lines)))
        kept += lines
    at_the_end(of_machine)
    say(describe_change(of_machine))
    if options.keep:
        with open(HERE / "scale.jsonl", "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        curves.draw(kept, HERE / "scale.svg")
        say("kept in bench/scale.jsonl, drawn in bench/scale.svg")
    if options.json:
        print(json.dumps(kept))
    return 0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--farrow", default="target/release/farrow", help="the program to measure")
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES), metavar="CURVE",
                        help="what grows: " + ", ".join(CURVES))
    parser.add_argument("--sizes", type=int, nargs="+", help="to what, along the curve that is chosen")
    parser.add_argument("--quick", action="store_true", help="smaller sizes: about a minute in all")
    parser.add_argument("--elements", type=int, default=1_000_000, help="elements of the map beside which jobs or agents grow")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which medians are taken")
    parser.add_argument("--patience", type=float, default=20,
                        help="seconds after which a size is not measured again")
    parser.add_argument("--on-postgres", action="store_true",
                        help="keep jobs in a PostgreSQL, whose own processor time is not counted, instead of SQLite")
    parser.add_argument("--no-keep", dest="keep", action="store_false",
                        help="do not append to bench/scale.jsonl, nor draw bench/scale.svg")
    parser.add_argument("--json", action="store_true",
                        help="print the figures as one JSON document on standard output")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Says where the processors' time goes, of server, agent and workers, while farrow does a work.

Does a work again and again for some seconds under `perf record` and prints, for each of the three, the seconds of
processors and the costliest functions: by themselves, and, of farrow's own and of the calls into the kernel, with all
that they call. What perf has written is left in the output folder.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from cluster import fail
from parked import allow_many_connections
from run import end, say
from scale import LABELS, cluster, parked
from usage import Usage, descendants, own_program

PARTS = ("server", "agent", "workers")
# Looks a second at each processor; not a round number, so that it does not beat with timers.
FREQUENCY = 1997
# What is told with all that it calls: in the frames between, of libraries, is nothing to see.
OURS = re.compile(r"(^|[< ])(server|agent|protocol|cli)::|^\[kernel\] __(x64|arm64)_sys_")

MISSING = """perf is not installed: it says where the time goes, and nothing here can stand in for it.
  Debian:  apt-get install linux-perf
  Ubuntu:  apt-get install linux-tools-common linux-tools-$(uname -r)"""

NOT_ALLOWED = """perf may not record here: as root, or after
  sysctl kernel.perf_event_paranoid=1
it may. In a container it also needs the right to: --cap-add PERFMON, or --privileged."""



class Work:
    """What is done again and again: the next when the value of the one before is there."""

    runtime = "python"

    def do(self, there, options):
        """Says what was done."""
        began, n_done = time.monotonic(), 0
        while time.monotonic() - began < options.seconds:
            title = self.once(there, options)
            n_done += 1
        return f"{title}, {n_done:,} times"


class Map(Work):
    """A map of trivial elements, or of one."""

    def __init__(self, title, runtime, function, elements=None):
        self.title = title
        self.runtime = runtime
        self.function = function
        self.elements = elements

    def once(self, there, options):
        elements = list(range(self.elements or options.elements))
        value, _ = there.map(runtime=self.runtime, function=self.function, elements=elements, options={"labels": LABELS})
        if value != [x + 1 for x in elements]:
            fail("a value is wrong")
        return self.title.format(len(elements))


class Large(Work):
    """A large argument, another each time, to four elements."""

    BYTES = 100_000_000

    def once(self, there, _options):
        # What repeats only after a mebibyte is not made smaller by who compresses.
        data = (os.urandom(2**20) * (self.BYTES // 2**20 + 1))[:self.BYTES]
        value, _ = there.map(runtime=self.runtime, function="lambda x, data: len(data) + x", elements=list(range(4)),
                             args={"data": {"blob": there.client.put(data), "encoding": "bytes"}},
                             options={"labels": LABELS})
        if value != [self.BYTES + x for x in range(4)]:
            fail("a value is wrong")
        return f"an argument of {self.BYTES / 1e6:.0f} MB to 4 elements"


class Idle:
    """Nothing."""

    runtime = "python"

    def do(self, _, options):
        """Says what was done."""
        time.sleep(options.seconds)
        return "nothing"


WORKS = {
    "map": Map("a map of {:,} trivial Python elements", "python", "lambda x: x + 1"),
    "calls": Map("one trivial Python call after the other", "python", "lambda x: x + 1", elements=1),
    "large": Large(),
    "idle": Idle(),
    "r-map": Map("a map of {:,} trivial R elements", "r", "function(x) x + 1"),
}


def main():
    options = parse_arguments()
    signal.signal(signal.SIGTERM, end)
    perf = shutil.which("perf") or sys.exit(MISSING)
    allow_many_connections()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.works:
        work = WORKS[name]
        with cluster(options) as there:
            there.warm_up(work.runtime)
            pids = pids_of(there)
            data = options.output / f"{name}.data"
            usage = Usage(there.server, there.agent, idle_seconds=0.5)
            with beside(there, options), recording(perf, data, pids), usage:
                did = work.do(there, options)
        figures = usage.figures()
        others = f", {options.agents:,} other agents beside" if options.agents else ""
        lines = [f"{did}{others}, {figures['seconds']:.2f} s"]
        samples = read(perf, data, pids)
        for part in PARTS:
            lines += ["", *table(part, figures["cpu"][part], samples[part], options.top)]
        (options.output / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines), end="\n\n", flush=True)
    say(f"kept in {options.output}: NAME.txt is what was printed, NAME.data is for `perf report -i`")
    return 0


def beside(there, options):
    """Agents that wait for other work meanwhile, if any are asked for."""
    return parked(there, options.agents) if options.agents else contextlib.nullcontext()


def pids_of(there):
    """Which part each process is of."""
    pids = {there.server.pid: "server", there.agent.pid: "agent"}
    for pid, program in descendants(there.agent.pid):
        pids[pid] = "agent" if program == own_program(there.agent.pid) else "workers"
    return pids


@contextlib.contextmanager
def recording(perf, data, pids):
    """Has perf look at these processes, and at what they start, while a block runs."""
    command = [perf, "record", "--event", "cpu-clock", "--freq", str(FREQUENCY), "-g", "--output", str(data),
               "--pid", ",".join(map(str, pids))]
    log = data.with_suffix(".log")
    with open(log, "wb") as errors, subprocess.Popen(command, stdout=errors, stderr=errors) as process:
        # It says nothing when it has begun, but is quick to end if it cannot.
        time.sleep(1)
        if process.poll() is not None:
            sys.exit(f"{log.read_text(encoding='utf-8', errors='replace').strip()}\n\n{NOT_ALLOWED}")
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def read(perf, data, pids):
    """The samples of each part: for each the functions that were at work, the innermost first."""
    script = subprocess.run([perf, "script", "--input", str(data), "--fields", "pid,ip,sym,dso", "--no-inline"],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace", check=False)
    if script.returncode:
        fail(f"perf cannot read {data}")
    samples = {part: [] for part in PARTS}
    for block in script.stdout.split("\n\n"):
        head, *frames = block.strip("\n").splitlines() or [""]
        if head.strip().isdigit():
            # What was started meanwhile, and has ended, is a worker's.
            samples[pids.get(int(head), "workers")].append([function(frame) for frame in frames])
    return samples


def function(frame):
    """`   55d0 farrow::run::h0123456789abcdef (/usr/bin/farrow)`, without what says nothing to people."""
    name, _, file = frame.strip().partition(" ")[2].rpartition(" (")
    file = pathlib.PurePath(file.rstrip(")")).name
    name = re.sub(r"::h[0-9a-f]{16}$", "", name.partition("+0x")[0])
    # The parts of an async function are that function to its reader.
    name = re.sub(r"(::\{\{closure\}\})+", "", name)
    return f"[kernel] {name}" if file.startswith("[") else name if name != "[unknown]" else f"? in {file}"


def table(part, seconds, samples, top):
    """Lines for people: the costliest functions, by what they take themselves, and by what they are in."""
    yield f"{part}: {seconds:.2f} s of processors, {len(samples):,} looks"
    alone, within = collections.Counter(), collections.Counter()
    for stack in samples:
        alone.update(stack[:1])
        within.update(set(stack))
    share = 100 / max(len(samples), 1)
    left = [f"{n * share:5.1f} %  {name}" for name, n in alone.most_common(top)]
    ours = [(name, n) for name, n in within.most_common() if OURS.search(name) and n > alone[name]]
    right = [f"{n * share:5.1f} %  {name}" for name, n in ours[:top]]
    yield from folded("by itself", left)
    yield from folded("with what it calls", right)


def folded(title, lines):
    if lines:
        yield f"  {title}:"
        yield from (f"    {line}" for line in lines)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--farrow", default="target/profiling/farrow", help="the program, built with the names of its functions")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK",
                        help="what is done: " + ", ".join(WORKS))
    parser.add_argument("--elements", type=int, default=100_000, help="elements of the maps")
    parser.add_argument("--agents", type=int, default=0, help="simulated agents that wait for other work meanwhile")
    parser.add_argument("--seconds", type=float, default=5, help="for how long a work is done")
    parser.add_argument("--top", type=int, default=15, help="functions that are told of each part")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("target/profile"), help="folder for what perf writes")
    parser.set_defaults(on_postgres=False)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

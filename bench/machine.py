"""What this machine is, and at what pace it goes now.

Machines that share their hosts with others go at a third of their pace at times, which neither their load nor their
model tells. So a run keeps both before and behind it what a fixed piece of work takes: whoever compares figures of two
runs sees by that whether the machines were alike.
"""

import os
import statistics
import sys
import time

ADDITIONS = 300_000
WAKE_UPS = 1_000
ROUNDS = 5


def machine():
    """What a run keeps of the machine that it begins on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "model": cpu_model(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_before": os.getloadavg()[0],
        "pace_before": pace(),
        "python": sys.version.split()[0],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def at_the_end(of):
    """Adds to what is kept of the machine how it is when the run ends."""
    of["load_after"] = os.getloadavg()[0]
    of["pace_after"] = pace()


def describe_machine(of):
    began = of["pace_before"]
    return (f"machine: {of['cores']} cores ({of['model']}), load {of['load_before']:.2f}, Python {of['python']}, "
            f"an addition in Python {began['addition_ns']:.0f} ns, "
            f"a byte to another process and back {began['wake_up_us']:.0f} us")


def describe_change(of):
    """How the pace has changed during the run."""
    began, ended = of["pace_before"], of["pace_after"]
    return (f"machine: additions now take {ended['addition_ns'] / began['addition_ns']:.2f} times as long as at the "
            f"beginning, the way to another process and back {ended['wake_up_us'] / began['wake_up_us']:.2f} times")


def pace():
    """Medians: of an addition in Python, in ns; of a byte to another process and back, in us."""
    return {"addition_ns": statistics.median(addition_ns() for _ in range(ROUNDS)),
            "wake_up_us": statistics.median(wake_up_us() for _ in range(ROUNDS))}


def addition_ns():
    total, began = 0, time.perf_counter()
    for number in range(ADDITIONS):
        total += number
    return (time.perf_counter() - began) / ADDITIONS * 1e9


def wake_up_us():
    (there, to_there), (here, to_here) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(to_there)
        while os.read(there, 1):
            os.write(to_here, b".")
        os._exit(0)
    began = time.perf_counter()
    for _ in range(WAKE_UPS):
        os.write(to_there, b".")
        os.read(here, 1)
    took = time.perf_counter() - began
    for end in (there, to_there, here, to_here):
        os.close(end)
    os.waitpid(child, 0)
    return took / WAKE_UPS * 1e6


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"

"""What the processes of a cluster use: of processors by all that they ever ran, of memory by a look 20 times a second."""

import os
import pathlib
import threading
import time

PERIOD = 0.05
SETTLED = 0.5


class Usage:
    """Processor time and memory of a server, of an agent, and of the agent's workers, while a block runs.

    The agent's supervisors, one for each worker, count to the agent: they are its own program. What is
    told of the processor is without what the same processes take while nothing runs, which
    `idle_seconds` before the block are for.
    """

    def __init__(self, server, agent, idle_seconds=1.0):
        self.server, self.agent = server.pid, agent.pid
        self.idle_seconds = idle_seconds
        self.samples = {"server": [], "agent": []}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)

    def __enter__(self):
        # What was done before ends first, such as its clearing up.
        time.sleep(SETTLED)
        began, spent = time.perf_counter(), self.spent()
        time.sleep(self.idle_seconds)
        self.began = time.perf_counter()
        self.spent_before = self.spent()
        passed = self.began - began
        self.idle = {part: max(0.0, (self.spent_before[part] - spent[part]) / passed) for part in spent}
        self.before = self.memory()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self.began
        spent = self.spent()
        self.over.set()
        self.thread.join()
        self.cpu = {part: spent[part] - self.spent_before[part] - self.idle[part] * self.seconds for part in spent}
        self.after = self.memory()

    def sample(self):
        while not self.over.wait(PERIOD):
            for part, of in self.memory().items():
                self.samples[part].append(of["RssAnon"])

    def memory(self):
        return {"server": status(self.server), "agent": status(self.agent)}

    def spent(self):
        """Seconds of processors that each part has used since it was started."""
        parts = {"server": [self.server], "agent": [self.agent], "workers": []}
        for pid, program in descendants(self.agent):
            parts["agent" if program == own_program(self.agent) else "workers"].append(pid)
        return {part: sum(map(seconds_of, pids)) for part, pids in parts.items()}

    def figures(self):
        memory = {
            part: {
                "before": self.before[part]["RssAnon"],
                "most": max([self.before[part]["RssAnon"], self.after[part]["RssAnon"], *self.samples[part]]),
                "after": self.after[part]["RssAnon"],
                # Of all that is resident, files that are mapped included, since the process was started.
                "peak": self.after[part]["VmHWM"],
            }
            for part in self.samples
        }
        return {"seconds": self.seconds, "cpu": self.cpu, "idle": self.idle, "memory": memory}


def status(pid):
    """The bytes of memory that a process has, by the kernel's names."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
        fields = (line.split() for line in lines)
        return {field[0].rstrip(":"): int(field[1]) * 1024 for field in fields if field[0] in ("VmHWM:", "RssAnon:")}


def descendants(of):
    """All processes below one, with their programs. One that ends meanwhile is left out."""
    parents, found, below = {}, [], [of]
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        parents.setdefault(parent(int(folder.name)), []).append(int(folder.name))
    while below:
        children = parents.get(below.pop(), [])
        below.extend(children)
        found.extend((child, own_program(child)) for child in children)
    return found


def seconds_of(pid):
    """Seconds of processors that a process has used, in user code and in the kernel."""
    try:
        # The clock of another process, as clock_getcpuclockid(3) makes it: `stat` would tell hundredths of a second.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def parent(pid):
    try:
        # The name, in brackets, may hold anything.
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(")")[2].split()[1])
    except OSError:
        return None


def own_program(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None

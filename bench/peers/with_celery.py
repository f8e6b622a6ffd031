"""Celery on a Redis of its own: a group of an element each, or chunks of a hundred."""

import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import celery
import redis
import work
from cluster import end

# The worker's process imports this module too, and finds there where Redis is.
PLACE = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:1/0")
app = celery.Celery("bench", broker=PLACE, backend=PLACE)


@app.task(name="run")
def run(name, *arguments):
    return getattr(work, name)(*arguments)


class Peer(work.Contender):
    def __init__(self, workers, variant):
        super().__init__(workers, variant)
        self.processes = []
        if not shutil.which("redis-server"):
            raise work.Missing("redis-server")

    def start(self):
        self.folder = tempfile.mkdtemp(prefix="bench-celery-")
        port = free_port()
        place = f"redis://127.0.0.1:{port}/0"
        app.conf.update(broker_url=place, result_backend=place)
        self.spawn("redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", self.folder,
                   "--save", "", "--appendonly", "no",
                   # Else Redis hangs up on who waits for a value of more than 32 MB.
                   "--client-output-buffer-limit", "pubsub 0 0 0")
        wait_for(redis.Redis(port=port))
        self.spawn(sys.executable, "-m", "celery", "--app", "with_celery", "worker", "--loglevel", "ERROR",
                   "--concurrency", str(self.workers), "--without-gossip", "--without-mingle",
                   environment={"BENCH_REDIS": place})

    def spawn(self, *command, environment=None):
        # Redis and the worker write to standard output, and Celery warns when root starts it.
        self.processes.append(subprocess.Popen(
            command, cwd=os.path.dirname(os.path.abspath(__file__)), env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def stop(self):
        for process in reversed(self.processes):
            end(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def map(self, function, elements):
        calls = [(function.__name__, x) for x in elements]
        if self.variant == "chunks":
            size = min(100, work.chunk_size(elements, self.workers))
            return list(itertools.chain.from_iterable(values(run.chunks(calls, size).group())))
        return values(celery.group(run.s(*call) for call in calls))

    def share(self, function, data, elements):
        return values(celery.group(run.s(function.__name__, x, data) for x in elements))


def values(group):
    # get() of a group often looks for the last value only half a second after it has come.
    return group().join()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(server):
    for _ in range(200):
        try:
            return server.ping()
        except redis.exceptions.ConnectionError:
            time.sleep(0.05)
    raise SystemExit("bench: Redis does not answer")

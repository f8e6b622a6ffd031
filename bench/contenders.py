"""Farrow and its peers as programs that do the same work; each is started with so many workers, and stopped."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

PEERS = pathlib.Path(__file__).parent / "peers"
# Seconds for a start and for a work, behind which a contender is given up.
START, WORK = 120, 180
# Ray listens on the host's own address: it gets a network without another host, and a process namespace,
# with which all that it has started ends.
ALONE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
         "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


class LeftOut(Exception):
    """Why a contender is not measured at a work."""


class NotHere(LeftOut):
    """It is measured at none."""


class Contender:
    """What can be started: `works` are those that it does, `base` is the farrow that its figures are compared with."""

    def __init__(self, title, program, works, base=("farrow",), peers_python=False, alone=False):
        self.title = title
        self.program = program
        self.works = works
        self.base = base
        self.peers_python = peers_python
        self.alone = alone

    def command(self, workers, options):
        return (ALONE if self.alone else []) + self.plain_command(workers, options)

    def plain_command(self, workers, options):
        module, variant = self.program
        if module.endswith(".R"):
            return ["Rscript", "--vanilla", str(PEERS / module), variant, str(workers)]
        own = pathlib.Path(options.peers, "bin", "python")
        python = str(own) if self.peers_python and own.exists() else sys.executable
        return [python, str(PEERS / "program.py"), module, variant, str(workers)]

    def start(self, workers, options):
        if self.alone and (os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip")):
            raise NotHere("needs root, unshare and ip, to be kept off the network")
        return Program(self.command(workers, options), options)


class Program:
    """A contender that runs, with warm workers: works go in, seconds come out."""

    def __init__(self, command, options):
        environment = os.environ | {"BENCH_FARROW": os.path.abspath(options.farrow),
                                    "PYTHONPATH": os.pathsep.join([str(PEERS), str(PEERS.parent)]),
                                    "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=None if options.verbose else subprocess.DEVNULL, text=True, start_new_session=True)
        except FileNotFoundError as missing:
            raise NotHere(f"not installed: {missing.filename}")
        try:
            said = self.line(START)
            if said.startswith("missing"):
                raise NotHere(f"not installed: {said.removeprefix('missing ')}; see `make bench-peers`")
            if said != "ready":
                raise LeftOut("did not start; --verbose tells what it says")
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def do(self, work, size=0):
        """The seconds of each call, or of the whole work."""
        try:
            print(work, size, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass
        said = self.line(WORK)
        if not said:
            raise LeftOut(f"gave no answer to {work} {size}; --verbose tells what it says")
        return [float(seconds) for seconds in said.split()]

    def line(self, patience):
        watch = threading.Timer(patience, self.kill)
        watch.start()
        try:
            return self.process.stdout.readline().strip()
        finally:
            watch.cancel()

    def stop(self):
        # It stops what it has started when its input ends.
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        self.kill()
        self.process.wait()
        self.process.stdout.close()

    def kill(self):
        """Ends what is left of its session, which it got for itself."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


ALL = ("rate", "call", "sleeps", "balance", "large")
IN_R = ("farrow-rds", "farrow-r", "farrow")
CONTENDERS = {
    "farrow": Contender("farrow", ("with_farrow", "python"), ALL),
    "farrow-postgres": Contender("farrow on PostgreSQL", ("with_farrow", "postgres"), ("rate", "call")),
    "farrow-r": Contender("farrow, R by JSON", ("with_farrow", "r"), ALL),
    "farrow-rds": Contender("farrow, R by rds", ("with_farrow", "rds"), ("rate",)),
    "pool": Contender("pool, chunksize 1", ("with_pool", "one"), ALL),
    "pool-chunks": Contender("pool, 4 chunks a worker", ("with_pool", "chunks"), ("rate", "balance")),
    "joblib": Contender("joblib", ("with_joblib", "auto"), ALL, peers_python=True),
    "furrr": Contender("furrr", ("furrr.R", "default"), ALL, base=IN_R),
    "furrr-one": Contender("furrr, chunk_size = 1", ("furrr.R", "one"), ("rate", "balance"), base=IN_R),
    "dask": Contender("Dask", ("with_dask", "map"), ALL, peers_python=True),
    "ray": Contender("Ray", ("with_ray", "remote"), ALL, peers_python=True, alone=True),
    "hyperqueue": Contender("HyperQueue, programs", ("with_hyperqueue", "program"), ("rate", "call", "sleeps", "balance"),
                            peers_python=True),
    "celery": Contender("Celery, group", ("with_celery", "group"), ALL, peers_python=True),
    "celery-chunks": Contender("Celery, chunks of 100", ("with_celery", "chunks"), ("rate", "balance"),
                               peers_python=True),
}

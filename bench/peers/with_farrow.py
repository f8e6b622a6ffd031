"""farrow as `bench/cluster.py` has it: one server, two agents; elements in Python or R, by JSON or rds; on SQLite, or
on PostgreSQL."""

import functools
import hashlib
import inspect
import os
import pathlib
import shutil
import subprocess

import work
from cluster import Cluster, fail
from database import Missing as NotInstalled

HERE = pathlib.Path(__file__).parent

# The same functions as the others run, where the language is the same.
IN_R = {
    "increment": "function(x) x + 1",
    "pause": "function(seconds) { Sys.sleep(seconds); seconds }",
    "size_of": "function(x, data) length(data) + x",
    "make": "function(size) rep_len(as.raw(sample.int(256, 2^20, TRUE) - 1), size)",
}


class Peer(work.Contender):
    def __init__(self, workers, variant):
        super().__init__(workers, variant)
        try:
            self.cluster = Cluster(os.environ["BENCH_FARROW"], slots=workers // 2, on_postgres=variant == "postgres")
        except NotInstalled as missing:
            raise work.Missing(missing)
        self.runtime = "python" if variant in ("python", "postgres") else "r"
        self.session = None
        if self.runtime == "r" and not shutil.which("Rscript"):
            raise work.Missing("R")
        for package in ("curl", "openssl") if variant == "rds" else ():
            if not has_r_package(package):
                raise work.Missing(f"{package}, a package of R")

    def start(self):
        self.cluster.__enter__()
        if self.variant == "rds":
            self.session = Session(self.cluster)

    def stop(self):
        if self.session:
            self.session.stop()
        self.cluster.__exit__()

    def warm_up(self):
        self.cluster.warm_up(self.runtime)
        self.map(work.increment, list(range(self.workers)))
        if self.session:
            self.session.do("rate", self.workers)

    def do(self, name, size):
        return self.session.do(name, size) if self.session else super().do(name, size)

    def map(self, function, elements):
        if function is work.make:
            return self.bytes_of(elements)
        return self.cluster.map(**self.job(function), elements=elements)[0]

    def job(self, function):
        if self.runtime == "r":
            return {"runtime": "r", "function": IN_R[function.__name__]}
        return {"runtime": "python", "packages": ["os", "time"], "function": source_of(function)}

    def share(self, function, data, elements):
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        status, body = self.cluster.client.request("PUT", f"/v1/blobs/{digest}", data)
        if status not in (200, 201):
            fail(body)
        given = {"data": {"blob": digest, "encoding": "bytes"}}
        return self.cluster.map(**self.job(function), args=given, elements=elements)[0]

    def bytes_of(self, sizes):
        """Values that are bytes travel as they are; the size is not among the elements, which would be bytes too."""
        job = self.job(work.make)
        job["function"] = {
            "r": f"local({{ make <- {job['function']}; function(i, size) make(size) }})",
            "python": f"{job['function']}\n\nlambda i, size: make(size)",
        }[self.runtime]
        client = self.cluster.client
        name = client.submit(job | {"elements": {"range": [0, len(sizes)]}, "args": {"size": sizes[0]},
                                    "options": {"encoding": "bytes"}})
        while True:
            status, body = client.request("GET", f"/v1/jobs/{name}/value?wait=30")
            if status == 200:
                return list(frames(body))
            if status != 202:
                fail(body)


def has_r_package(name):
    look = f"quit(status = !requireNamespace('{name}', quietly = TRUE))"
    return subprocess.run(["Rscript", "--vanilla", "-e", look], stderr=subprocess.DEVNULL).returncode == 0


class Session:
    """An R that is the client, and speaks as `program.py` does."""

    def __init__(self, cluster):
        environment = cluster.environment | {"FARROW_URL": f"http://{cluster.address}"}
        self.process = subprocess.Popen(["Rscript", "--vanilla", str(HERE / "farrow_rds.R")],
                                        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, name, size):
        print(name, size, file=self.process.stdin, flush=True)
        return [float(seconds) for seconds in self.process.stdout.readline().split()]

    def stop(self):
        self.process.communicate()


@functools.cache
def source_of(function):
    """Found once, as those of the others are."""
    return inspect.getsource(function)


def frames(body):
    """The values of `application/vnd.farrow.frames`: a length, a letter and so many bytes, each."""
    body, at = memoryview(body), 0
    while at < len(body):
        length = int.from_bytes(body[at:at + 4], "little")
        if body[at + 4] == ord("v"):
            yield bytes(body[at + 5:at + 5 + length])
        at += 5 + length

"""HyperQueue: a program a task, which is what it is quickest at. It gives no values back, so a program does what
the function would and its end stands for the value: its figures are of less work than those of the others."""

import pathlib
import tempfile

import hyperqueue
import work
from hyperqueue.cluster import LocalCluster, WorkerConfig

PROGRAMS = {work.increment: lambda _: ["true"], work.pause: lambda seconds: ["sleep", str(seconds)]}


class Peer(work.Contender):
    def start(self):
        self.folder = tempfile.TemporaryDirectory(prefix="farrow-bench-")
        self.cluster = LocalCluster(pathlib.Path(self.folder.name, "server"), WorkerConfig(cores=self.workers))
        self.client = self.cluster.client()

    def stop(self):
        self.cluster.stop()
        self.folder.cleanup()

    def map(self, function, elements):
        job = hyperqueue.Job(default_workdir=self.folder.name)
        for element in elements:
            job.program(PROGRAMS[function](element), stdout=None, stderr=None)
        self.client.wait_for_jobs([self.client.submit(job)])
        return [element + 1 for element in elements] if function is work.increment else elements

"""Dask's client.map on processes of one thread each."""

import logging

import dask.distributed
import work


class Peer(work.Contender):
    def start(self):
        self.client = self.cluster = None
        self.cluster = dask.distributed.LocalCluster(
            n_workers=self.workers, threads_per_worker=1, processes=True, host="127.0.0.1",
            dashboard_address=None, silence_logs=logging.ERROR)
        self.client = dask.distributed.Client(self.cluster)

    def stop(self):
        for started in (self.client, self.cluster):
            if started:
                started.close()

    def map(self, function, elements):
        # Not pure: the same element again is work again, not a value that is known.
        return self.client.gather(self.client.map(function, elements, pure=False))

    def share(self, function, data, elements):
        known = self.client.scatter(data, hash=False)
        return self.client.gather(self.client.map(function, elements, data=known, pure=False))

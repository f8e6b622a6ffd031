"""Python's own ProcessPoolExecutor: an element at a time, or in chunks, which is the bare machine."""

import concurrent.futures
import functools

import work


class Peer(work.Contender):
    def start(self):
        self.pool = concurrent.futures.ProcessPoolExecutor(self.workers)

    def stop(self):
        self.pool.shutdown()

    def map(self, function, elements):
        size = work.chunk_size(elements, self.workers) if self.variant == "chunks" else 1
        return list(self.pool.map(function, elements, chunksize=size))

    def share(self, function, data, elements):
        return self.map(functools.partial(function, data=data), elements)

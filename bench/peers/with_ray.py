"""Ray, a remote() for each element."""

import functools
import logging
import os
import shutil
import tempfile

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray  # noqa: E402, after what it reads when imported
import work


class Peer(work.Contender):
    def start(self):
        self.folder = tempfile.mkdtemp(prefix="bench-ray-")
        ray.init(num_cpus=self.workers, include_dashboard=False, log_to_driver=False,
                 logging_level=logging.ERROR, _node_ip_address="127.0.0.1", _temp_dir=self.folder)
        self.remote = functools.cache(ray.remote)

    def stop(self):
        ray.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def map(self, function, elements):
        remote = self.remote(function)
        return ray.get([remote.remote(x) for x in elements])

    def share(self, function, data, elements):
        remote, known = self.remote(function), ray.put(data)
        return ray.get([remote.remote(x, known) for x in elements])

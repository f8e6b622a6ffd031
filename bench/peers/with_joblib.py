"""joblib's loky with the batches that it chooses itself."""

import joblib
import work


class Peer(work.Contender):
    def start(self):
        self.parallel = joblib.Parallel(n_jobs=self.workers).__enter__()

    def stop(self):
        self.parallel.__exit__(None, None, None)

    def map(self, function, elements):
        return self.parallel(joblib.delayed(function)(x) for x in elements)

    def share(self, function, data, elements):
        return self.parallel(joblib.delayed(function)(x, data) for x in elements)

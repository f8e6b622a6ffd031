"""What is started for a measurement, and stopped whatever happens in between."""


class Started:
    """Has `start` and `stop`; `stop` must also clear up behind a start that failed half way."""

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

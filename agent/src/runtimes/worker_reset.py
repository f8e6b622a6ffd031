"""What a worker was when it was new, and how it becomes so again between the jobs of an owner."""

import _signal
import faulthandler
import gc
import importlib
import importlib.machinery
import linecache
import logging
import os
import random
import resource
import signal
import sys
import threading
import time

# What the kernel limits.
RESOURCES = {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}


def environment():
    """The variables as bytes: `dict(os.environ)` decodes each, and takes longer than a small job."""
    return getattr(os.environ, "_data", os.environb)


class Unclean(Exception):
    """Something is left that only the end of the process removes."""


class NewProcess:
    """What a new process has, taken once before any user code."""

    def __init__(self, streams):
        self.streams = streams
        self.main = sys.modules["__main__"]
        self.arguments = list(sys.argv)
        self.folder = os.getcwd()
        self.variables = dict(environment())
        self.path = list(sys.path)
        # Where modules are found that are the same for each job, and those that are known to stay.
        self.places = tuple(os.path.join(os.path.abspath(folder), "") for folder in self.path if folder)
        self.modules = set(sys.modules)
        self.recursion_limit = sys.getrecursionlimit()
        self.umask = os.umask(0)
        os.umask(self.umask)
        self.affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        self.limits = {number: resource.getrlimit(number) for number in RESOURCES}
        self.masked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self.loggers = set(logging.root.manager.loggerDict)
        self.signals = {number: _signal.getsignal(number) for number in _signal.valid_signals()}

    def restore(self):
        """Leaves the process as it was. Raises where only its end can remove what is left."""
        self._stop_what_runs()
        self._restore_process()
        self._restore_interpreter()

    def _stop_what_runs(self):
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()
        multiprocessing = sys.modules.get("multiprocessing")
        if multiprocessing is not None:
            for child in multiprocessing.active_children():
                child.kill()
                child.join()
            # It can be set once, and is set by the first pool that is made.
            multiprocessing.set_start_method(None, force=True)
        if threading.active_count() > 1:
            raise Unclean("threads run on")

    def _restore_process(self):
        os.chdir(self.folder)
        os.umask(self.umask)
        if environment() != self.variables:
            for name in list(os.environ):
                del os.environ[name]
            for name, value in self.variables.items():
                os.environb[name] = value
            # C has read the time zone from them.
            time.tzset()
        for number, handler in self.signals.items():
            if handler is not None and _signal.getsignal(number) != handler:
                _signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.masked)
        if self.affinity is not None and os.sched_getaffinity(0) != self.affinity:
            os.sched_setaffinity(0, self.affinity)
        for number, limits in self.limits.items():
            if resource.getrlimit(number) != limits:
                # Fails where it was lowered for good; then the process ends.
                resource.setrlimit(number, limits)

    def _restore_interpreter(self):
        sys.modules["__main__"] = self.main
        sys.path[:] = self.path
        sys.argv = list(self.arguments)
        sys.settrace(None)
        sys.setprofile(None)
        sys.setrecursionlimit(self.recursion_limit)
        linecache.clearcache()
        self._forget_modules()
        self.streams.restore()
        gc.enable()
        # Its own `seed()` asks the system for 2.5 kilobytes.
        random.seed(int.from_bytes(os.urandom(32), "big"))
        numpy_random = sys.modules.get("numpy.random")
        if numpy_random is not None:
            numpy_random.seed()
        # Both make all loggers forget what they know.
        if logging.root.manager.disable != logging.NOTSET:
            logging.disable(logging.NOTSET)
        if logging.root.level != logging.WARNING:
            logging.root.setLevel(logging.WARNING)
        for handler in list(logging.root.handlers):
            logging.root.removeHandler(handler)
        self._restore_loggers()

    def _restore_loggers(self):
        """Those of modules stay as their modules have set them up, which are not imported again."""
        loggers = logging.root.manager.loggerDict
        if len(loggers) == len(self.loggers):
            return
        for name in [name for name in loggers if name not in self.loggers]:
            logger = loggers[name]
            if isinstance(logger, logging.Logger) and name not in sys.modules:
                logger.handlers.clear()
                logger.filters.clear()
                logger.setLevel(logging.NOTSET)
                logger.propagate, logger.disabled = True, False

    def _forget_modules(self):
        """Modules from files of the job's own, which may be other ones when the next job imports them. What is
        installed stays imported."""
        if sys.modules.keys() == self.modules:
            return
        mine = []
        for name in [name for name in sys.modules if name not in self.modules]:
            places = files_of(sys.modules[name])
            if all(place.startswith(self.places) for place in places):
                self.modules.add(name)
            elif any(place.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)) for place in places):
                raise Unclean("compiled modules cannot be imported anew")
            else:
                mine.append(name)
        for name in mine:
            del sys.modules[name]
        if mine:
            importlib.invalidate_caches()


def files_of(module):
    """The file of a module, or the folders of a package without one. Of what was made by code, none."""
    try:
        file = getattr(module, "__file__", None)
        return [file] if file else list(map(os.fspath, getattr(module, "__path__", ())))
    except Exception:
        # Some that load others when they are asked something.
        return []

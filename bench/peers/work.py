"""The works, which are the same for all contenders, and what a contender in Python has to offer."""

import os
import time

from started import Started

# The balance: eight long elements in front of many short ones, as a list comes that was sorted.
LONG_THEN_SHORT = [1.0] * 8 + [0.05] * 56


def increment(x):
    return x + 1


def pause(seconds):
    time.sleep(seconds)
    return seconds


def size_of(x, data):
    return len(data) + x


def make(size):
    # What repeats only after a mebibyte is not made smaller by a contender that compresses.
    return (os.urandom(2**20) * (size // 2**20 + 1))[:size]


class Missing(Exception):
    """What is not there, and must be for this contender."""


class Contender(Started):
    """Has `start` and `stop`, `map`, and `share`, which gives one large argument to each element.

    Its workers are warm; measured is everything from the call of `map` until all values are decoded
    in the caller's hand.
    """

    def __init__(self, workers, variant):
        self.workers = workers
        self.variant = variant

    def warm_up(self):
        """Has each worker started and the function known, by sleeps that no worker alone can take."""
        self.map(pause, [0.5] * (2 * self.workers))
        self.map(increment, list(range(self.workers)))

    def do(self, name, size):
        """Seconds that a work took, or for calls the seconds of each."""
        return getattr(self, f"do_{name}")(size)

    def do_rate(self, size):
        elements = list(range(size))
        value, seconds = timed(lambda: self.map(increment, elements))
        check(value == [x + 1 for x in elements], "the value of a map")
        return [seconds]

    def do_call(self, size):
        taken = []
        for number in range(size):
            value, seconds = timed(lambda: self.map(increment, [number]))
            check(value == [number + 1], "the value of a call")
            taken.append(seconds)
        return taken

    def do_sleeps(self, size):
        return self.pauses([0.5] * size)

    def do_balance(self, _):
        return self.pauses(LONG_THEN_SHORT)

    def pauses(self, elements):
        value, seconds = timed(lambda: self.map(pause, elements))
        check(value == elements, "the value of sleeps")
        return [seconds]

    def do_give(self, size):
        data = make(size)
        value, seconds = timed(lambda: self.share(size_of, data, [0, 1, 2, 3]))
        check(value == [size, size + 1, size + 2, size + 3], "the size of what was given")
        return [seconds]

    def do_take(self, size):
        value, seconds = timed(lambda: self.map(make, [size] * 4))
        check([len(data) for data in value] == [size] * 4, "the size of what came back")
        return [seconds]


def chunk_size(elements, workers):
    """Four chunks a worker: with two workers an eighth of the elements each."""
    return max(1, len(elements) // (4 * workers))


def timed(function):
    began = time.perf_counter()
    value = function()
    return value, time.perf_counter() - began


def check(holds, what):
    if not holds:
        raise SystemExit(f"bench: {what} is wrong")

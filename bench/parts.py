"""What is measured. Each part says what cluster it needs, measures, and describes its figures in lines for people."""

import concurrent.futures
import datetime
import heapq
import math
import random
import statistics
import time

from cluster import MemoryWatch


class Topology:
    """Eight elements of two seconds on two agents of four slots: nested as in furrr's vignette, and flat."""

    SLEEP = "function(.x) { Sys.sleep(2); paste0('Instance: ', .x[1], ' and core: ', .x[2]) }"
    NESTED = [[[i, j] for j in range(1, 5)] for i in (1, 2)]
    PLAN = [{"strategy": "cluster"}, {"strategy": "multisession"}]

    CLUSTER = {"slots": 4}

    @classmethod
    def measure(cls, cluster, options):
        cluster.warm_up("r")
        said = [[f"Instance: {i} and core: {j}" for i, j in inner] for inner in cls.NESTED]
        flat = [pair for inner in cls.NESTED for pair in inner]
        flat_said = [text for inner in said for text in inner]
        return {
            "nested": cls.seconds(cluster, options, said, elements=cls.NESTED, plan=cls.PLAN),
            "flat": cls.seconds(cluster, options, flat_said, elements=flat),
        }

    @classmethod
    def seconds(cls, cluster, options, expected, **job):
        taken = []
        for _ in range(options.repeats):
            value, seconds = cluster.map(runtime="r", function=cls.SLEEP, **job)
            check(value == expected, "the topology's value")
            taken.append(seconds)
        return {"median": statistics.median(taken), "all": taken}

    @staticmethod
    def headlines(figures):
        return {f"{name}, seconds": of["median"] for name, of in figures.items()}

    @staticmethod
    def describe(figures):
        line = "{:6} eight of 2 s on 2 x 4 slots, warm: median {:.3f} s of {} (from {:.3f} to {:.3f}); one by one 16 s"
        return "\n".join(
            line.format(name, of["median"], len(of["all"]), min(of["all"]), max(of["all"]))
            for name, of in figures.items())


class Latency:
    """One trivial call, from submission to value, on an idle server, over one connection."""

    CLUSTER = {"slots": 1}

    @staticmethod
    def measure(cluster, options):
        figures = {}
        for runtime, function in (("python", "lambda x: x"), ("r", "function(x) x")):
            cluster.warm_up(runtime)
            taken = []
            for call in range(options.calls):
                value, seconds = cluster.map(runtime=runtime, function=function, elements=[call])
                check(value == [call], "a call's value")
                taken.append(seconds)
            taken.sort()
            figures[runtime] = {"calls": len(taken), "p50": quantile(taken, 0.5), "p99": quantile(taken, 0.99)}
        return figures

    @staticmethod
    def headlines(figures):
        return {f"{runtime} call, {quantile}, seconds": of[quantile]
                for runtime, of in figures.items() for quantile in ("p50", "p99")}

    @staticmethod
    def describe(figures):
        return "\n".join(
            f"{runtime:6} one trivial call, {of['calls']} times: p50 {of['p50'] * 1e3:.1f} ms, p99 {of['p99'] * 1e3:.1f} ms"
            for runtime, of in figures.items())


SLEEP = {"r": "function(seconds) { Sys.sleep(seconds); seconds }",
         "python": "import time\ndef pause(seconds):\n    time.sleep(seconds)\n    return seconds"}


class Lognormal:
    """A thousand elements of lognormal times on two agents of four slots, beside a schedule that costs nothing."""

    ELEMENTS, SEEDS, SIGMA, MEAN = 1000, 10, 1.5, 0.02

    CLUSTER = {"slots": 4}

    @classmethod
    def measure(cls, cluster, _options):
        figures = {}
        for runtime in ("python", "r"):
            cluster.warm_up(runtime)
            ratios = []
            for seed in range(cls.SEEDS):
                elements = cls.elements(seed)
                value, seconds = cluster.map(runtime=runtime, function=SLEEP[runtime], elements=elements)
                check(value == elements, "the map's value")
                ratios.append(seconds / greedy(elements, 8))
            figures[runtime] = {"median": statistics.median(ratios), "most": max(ratios), "all": ratios}
        return figures

    @classmethod
    def elements(cls, seed):
        # The mean of a lognormal is e to the mu plus half the variance.
        chance, mu = random.Random(seed), math.log(cls.MEAN) - cls.SIGMA**2 / 2
        return [round(chance.lognormvariate(mu, cls.SIGMA), 6) for _ in range(cls.ELEMENTS)]

    @staticmethod
    def headlines(figures):
        return {f"lognormal, {runtime}, over greedy": of["median"] for runtime, of in figures.items()}

    @classmethod
    def describe(cls, figures):
        return "\n".join(
            f"{runtime:6} {cls.ELEMENTS:,} lognormal elements on 2 x 4 slots, submission to value, over a greedy schedule "
            f"that costs nothing, {len(of['all'])} seeds: median {of['median']:.3f}, most {of['most']:.3f}"
            for runtime, of in figures.items())


def greedy(elements, slots):
    """The makespan when each element in turn goes to the slot that is free first, at no cost."""
    free = [0.0] * slots
    for seconds in elements:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


class Distance:
    """An agent of four slots a tenth of a second away from its server, in each direction: how busy it is."""

    DELAY, ELEMENTS, SECONDS, SLOTS = 0.1, 400, 0.1, 4

    CLUSTER = {"slots": SLOTS, "agents": ("far",), "delay": DELAY}

    @classmethod
    def measure(cls, cluster, options):
        cluster.warm_up("python")
        busy = []
        for _ in range(options.repeats):
            job = cluster.client.submit({"runtime": "python", "function": SLEEP["python"],
                                         "elements": [cls.SECONDS] * cls.ELEMENTS})
            check(cluster.client.value(job) == [cls.SECONDS] * cls.ELEMENTS, "the map's value")
            busy.append(cls.busy(cluster.client.outcomes(job)))
        return {"busy": statistics.median(busy), "all": busy}

    @classmethod
    def busy(cls, outcomes):
        """The share of the slots' time, from the first start to the last end, in which an element ran."""
        begun = [datetime.datetime.fromisoformat(of["started_at"]).timestamp() for of in outcomes]
        ended = [start + of["seconds"] for start, of in zip(begun, outcomes)]
        return sum(of["seconds"] for of in outcomes) / cls.SLOTS / (max(ended) - min(begun))

    @staticmethod
    def headlines(figures):
        return {"busy at a distance": figures["busy"]}

    @classmethod
    def describe(cls, figures):
        return (f"far    {cls.ELEMENTS} elements of {cls.SECONDS * 1e3:.0f} ms on {cls.SLOTS} slots, "
                f"{cls.DELAY * 1e3:.0f} ms from the server in each direction: busy {figures['busy']:.1%} "
                f"(from {min(figures['all']):.1%} to {max(figures['all']):.1%})")


class Throughput:
    """Many trivial elements on two slots, beside Python's own pool of two processes in the same run."""

    CLUSTER = {"slots": 1}

    @classmethod
    def measure(cls, cluster, options):
        elements = list(range(options.elements))
        figures = {"elements": len(elements), "pool": cls.pool(elements)}
        for runtime, function in (("python", "lambda x: x + 1"), ("r", "function(x) x + 1")):
            cluster.warm_up(runtime)
            with MemoryWatch(cluster.server) as memory:
                value, seconds = cluster.map(runtime=runtime, function=function, elements=elements)
            check(value == [x + 1 for x in elements], f"the {runtime} map's value")
            figures[runtime] = cls.rate(elements, seconds) | {"server_memory": memory.figures()}
            figures[runtime]["of_pool"] = figures[runtime]["a_second"] / figures["pool"]["a_second"]
        return figures

    @classmethod
    def pool(cls, elements):
        """`ProcessPoolExecutor(2).map` with a chunk size of 1, its processes warm."""
        with concurrent.futures.ProcessPoolExecutor(2) as pool:
            list(pool.map(increment, range(4)))
            began = time.perf_counter()
            value = list(pool.map(increment, elements, chunksize=1))
            seconds = time.perf_counter() - began
        check(value == [x + 1 for x in elements], "the pool's value")
        return cls.rate(elements, seconds)

    @staticmethod
    def rate(elements, seconds):
        return {"seconds": seconds, "a_second": len(elements) / seconds}

    @staticmethod
    def headlines(figures):
        return ({f"{runtime} map, seconds": figures[runtime]["seconds"] for runtime in ("python", "r")}
                | {"server's memory, bytes": max(figures[runtime]["server_memory"]["most"] for runtime in ("python", "r"))})

    @staticmethod
    def describe(figures):
        lines = [f"pool   {figures['elements']:,} trivial elements by ProcessPoolExecutor(2), chunksize=1: "
                 f"{figures['pool']['a_second']:,.0f} a second"]
        for runtime in ("python", "r"):
            of = figures[runtime]
            memory = {when: size / 2**20 for when, size in of["server_memory"].items()}
            lines.append(
                f"{runtime:6} {figures['elements']:,} trivial elements, submission to value decoded: "
                f"{of['a_second']:,.0f} a second ({of['seconds']:.2f} s), {of['of_pool']:.2f} times the pool; "
                f"server's memory {memory['before']:.0f} MiB before, {memory['most']:.0f} at most, {memory['after']:.0f} after")
        return "\n".join(lines)


def increment(x):
    return x + 1


def quantile(ascending, share):
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def check(holds, what):
    if not holds:
        raise SystemExit(f"bench: {what} is wrong")


PARTS = {"topology": Topology, "latency": Latency, "throughput": Throughput, "lognormal": Lognormal, "distance": Distance}

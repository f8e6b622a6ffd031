"""The works that farrow and its peers do side by side, and what is told of each."""

import statistics

from parts import quantile


class Rate:
    """Trivial elements, given as a list, on two workers: how many a second."""

    title = "trivial elements a second, 2 workers (more is better)"
    unit = "/s"
    more_is_better = True
    workers = 2

    @staticmethod
    def measure(program, options, limits):
        """From the smallest map on, until the next would take too long; the first round decides for all."""
        figures = {}
        for size in sorted(options.sizes):
            if size > limits.get("most", size):
                break
            taken = program.do("rate", size)[0]
            figures[f"{size:,}"] = size / taken
            following = next((larger for larger in sorted(options.sizes) if larger > size), None)
            if "most" not in limits and following and taken * following / size > options.patience:
                limits["most"] = size
        limits.setdefault("most", size)
        return figures


class Call:
    """One trivial call after the other on idle workers: how long each takes."""

    title = "one trivial call, ms (less is better)"
    unit = "ms"
    more_is_better = False
    workers = 2

    @staticmethod
    def measure(program, options, limits):
        calls = options.calls if limits["farrow"] else min(options.calls, 200)
        taken = sorted(program.do("call", calls))
        return {"p50": quantile(taken, 0.5) * 1e3, "p99": quantile(taken, 0.99) * 1e3}


class Sleeps:
    """Eight sleeps of half a second on eight workers: what is added to the half second."""

    title = "eight sleeps of 0.5 s on 8 workers, ms above 0.5 s (less is better)"
    unit = "ms"
    more_is_better = False
    workers = 8

    @staticmethod
    def measure(program, _options, _limits):
        return {"overhead": (program.do("sleeps", 8)[0] - 0.5) * 1e3}


class Balance:
    """Eight sleeps of 1 s and 56 of 0.05 s behind them on four workers; no order takes less than 2.70 s."""

    title = "8 elements of 1 s, then 56 of 0.05 s, on 4 workers, over the bound of 2.70 s (less is better)"
    unit = "x"
    more_is_better = False
    workers = 4

    @staticmethod
    def measure(program, _options, _limits):
        return {"makespan": program.do("balance")[0] / 2.7}


class Large:
    """One large argument to four elements on four workers, and four large values back."""

    title = "a large argument to 4 elements, 4 values of a quarter of it back, 4 workers, s (less is better)"
    unit = "s"
    more_is_better = False
    workers = 4

    @staticmethod
    def measure(program, options, _limits):
        return {"there": program.do("give", options.bytes)[0], "back": program.do("take", options.bytes // 4)[0]}


WORKS = {"rate": Rate, "call": Call, "sleeps": Sleeps, "balance": Balance, "large": Large}


def table(work, contenders, figures):
    """Lines for people: `figures` are lists of each round's, by contender and figure."""
    columns = list(dict.fromkeys(figure for of in figures.values() for figure in of))
    yield f"{work.title}; in brackets farrow's figure by this one, r: farrow's in R"
    yield f"{'':26}" + "".join(f"{column:>22}" for column in columns)
    for name, of in figures.items():
        cells = (cell(of[column], ratio(contenders[name], column, name, figures)) if column in of else "-"
                 for column in columns)
        yield f"{contenders[name].title:26}" + "".join(f"{text:>22}" for text in cells)


def cell(values, ratio_and_base):
    of, base = ratio_and_base
    text = digits(statistics.median(values))
    return text if of is None else f"{text}  ({digits(of)}{'' if base == 'farrow' else ' r'})"


def digits(number):
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:#.3g}"


def ratio(contender, figure, name, figures):
    """Farrow's figure by the contender's, round by round, the median of these; and which farrow's it is."""
    for base in contender.base:
        of = figures.get(base, {}).get(figure)
        if of and base != name:
            by_round = [ours / theirs for ours, theirs in zip(of, figures[name][figure]) if theirs > 0]
            return (statistics.median(by_round) if by_round else None), base
    return None, None

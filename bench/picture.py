#!/usr/bin/env python3
"""Draws the rate by the number of elements, and the latency of a call, of all contenders, as SVG.

`python3 bench/picture.py` draws the last run of bench/results.jsonl anew.
"""

import json
import math
import pathlib
import statistics
import sys
from xml.sax.saxutils import escape

from contenders import CONTENDERS

HERE = pathlib.Path(__file__).parent
WIDTH, HEIGHT = 1300, 600
# Farrow's are dark and thick; a peer's two ways have one colour, and the second is dashed.
STYLES = {
    "farrow": ("#c1121f", "", 3.5), "farrow-postgres": ("#780000", "", 2.5),
    "farrow-r": ("#c1121f", "7 4", 3), "farrow-rds": ("#c1121f", "2 4", 3),
    "pool": ("#555555", "", 1.8), "pool-chunks": ("#555555", "7 4", 1.8), "joblib": ("#0a7e8c", "", 1.8),
    "furrr": ("#1f5fbf", "", 1.8), "furrr-one": ("#1f5fbf", "7 4", 1.8), "dask": ("#e08a00", "", 1.8),
    "ray": ("#7b3fb5", "", 1.8), "hyperqueue": ("#8c564b", "", 1.8),
    "celery": ("#3a8f3a", "", 1.8), "celery-chunks": ("#3a8f3a", "7 4", 1.8),
}


def lines_of(results, units, commit):
    """What is kept of a run: a line for each work and contender."""
    for work, unit in units.items():
        for contender, figures in results[work].items():
            yield {
                "at": results["machine"]["at"], "machine": results["machine"], "commit": commit, "work": work,
                "contender": contender, "unit": unit,
                "medians": {figure: statistics.median(values) for figure, values in figures.items()},
                "all": figures,
            }


def draw(lines, path):
    by_work = {}
    for line in lines:
        by_work.setdefault(line["work"], {})[line["contender"]] = line["medians"]
    rates, calls = by_work.get("rate", {}), by_work.get("call", {})
    if not rates and not calls:
        return
    machine = lines[0]["machine"]
    shapes = [
        text(30, 32, "farrow beside its peers, the same work in the same run", size=19, weight="bold"),
        text(30, 53, f"{machine['cores']} cores, {machine['model']}, {machine['at'][:10]}, "
             f"farrow {lines[0]['commit']}; medians", colour="#666"),
    ]
    if rates:
        shapes += rate_panel(rates, left=80, top=105, width=430, height=430)
    if calls:
        shapes += call_panel(calls, left=890, top=105, width=370, height=430)
    shapes += legend([name for name in STYLES if name in rates], left=540, top=112) if rates else []
    pathlib.Path(path).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="13">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n' + "\n".join(shapes) + "\n</svg>\n",
        encoding="utf-8")


def rate_panel(rates, left, top, width, height):
    points = {name: sorted((int(figure.replace(",", "")), value) for figure, value in of.items())
              for name, of in rates.items()}
    across = Scale([size for of in points.values() for size, _ in of], left, left + width)
    up = Scale([value for of in points.values() for _, value in of], top + height, top)
    yield text(left, top - 16, "trivial elements a second, by their number; 2 workers", weight="bold")
    yield from grid(across, up, left, top, width, height)
    for power in up.powers():
        yield text(left - 8, up(10**power) + 4, short(10**power), anchor="end", colour="#444")
    for power in across.powers():
        yield text(across(10**power), top + height + 20, short(10**power), anchor="middle", colour="#444")
    yield text(left + width / 2, top + height + 44, "elements", anchor="middle", colour="#444")
    # Farrow's last, on top of the others.
    for name in sorted(points, key=lambda name: name.startswith("farrow")):
        colour, dashes, thick = STYLES[name]
        places = [(across(size), up(value)) for size, value in points[name]]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield (f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{thick}" '
               f'stroke-dasharray="{dashes}"/>')
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{thick + 1}" fill="{colour}"/>' for x, y in places)


def call_panel(calls, left, top, width, height):
    """A bar for the median, and a line to where the slowest hundredth begins."""
    names = sorted(calls, key=lambda name: calls[name]["p50"])
    across = Scale([value for of in calls.values() for value in of.values()], left, left + width)
    yield text(left - 110, top - 16, "one trivial call on idle workers: p50 (bar) and p99 (line), ms", weight="bold")
    yield from grid(across, None, left, top, width, height)
    for power in across.powers():
        yield text(across(10**power), top + height + 20, short(10**power), anchor="middle", colour="#444")
    yield text(left + width / 2, top + height + 44, "milliseconds", anchor="middle", colour="#444")
    step = height / len(names)
    for row, name in enumerate(names):
        colour, dashes, _ = STYLES[name]
        middle, half, p50, p99 = top + step * (row + 0.5), min(step * 0.3, 16), calls[name]["p50"], calls[name]["p99"]
        yield text(left - 8, middle - 1, CONTENDERS[name].title, anchor="end", size=12)
        yield text(left - 8, middle + 13, f"{digits(p50)} / {digits(p99)}", anchor="end", size=11, colour="#666")
        yield (f'<rect x="{left}" y="{middle - half:.1f}" width="{across(p50) - left:.1f}" height="{2 * half:.1f}" '
               f'fill="{colour}" fill-opacity="{0.55 if dashes else 0.9}"/>')
        yield (f'<path d="M{across(p50):.1f} {middle:.1f} H{across(p99):.1f} m0 -6 v12" fill="none" '
               f'stroke="{colour}" stroke-width="2"/>')


def legend(names, left, top):
    for row, name in enumerate(names):
        colour, dashes, thick = STYLES[name]
        y = top + 24 * row
        yield (f'<line x1="{left}" y1="{y}" x2="{left + 34}" y2="{y}" stroke="{colour}" stroke-width="{thick}" '
               f'stroke-dasharray="{dashes}"/>')
        yield text(left + 42, y + 4, CONTENDERS[name].title, size=12)


def grid(across, up, left, top, width, height):
    for power in across.powers():
        x = across(10**power)
        yield f'<path d="M{x:.1f} {top} v{height}" stroke="#e3e3e3"/>'
    for power in up.powers() if up else ():
        yield f'<path d="M{left} {up(10**power):.1f} h{width}" stroke="#e3e3e3"/>'
    yield f'<path d="M{left} {top} v{height} h{width}" fill="none" stroke="#888"/>'


class Scale:
    """A logarithmic axis over whole powers of ten."""

    def __init__(self, values, begin, end):
        self.low = math.floor(math.log10(min(values)))
        self.high = max(math.ceil(math.log10(max(values))), self.low + 1)
        self.begin, self.end = begin, end

    def __call__(self, value):
        return self.begin + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.begin)

    def powers(self):
        return range(self.low, self.high + 1)


def text(x, y, content, anchor="start", size=13, weight="normal", colour="#111"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
            f'fill="{colour}">{escape(str(content))}</text>')


def short(number):
    for unit, of in (("M", 1e6), ("k", 1e3)):
        if number >= of:
            return f"{number / of:g} {unit}"
    return f"{number:g}"


def digits(number):
    return f"{number:.0f}" if number >= 100 else f"{number:.2g}"


def main():
    with open(HERE / "results.jsonl", encoding="utf-8") as kept:
        lines = [json.loads(line) for line in kept]
    draw([line for line in lines if line["at"] == lines[-1]["at"]], HERE / "results.svg")


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Draws the curves of scale as one SVG: processor time an element above, memory below.

`python3 bench/curves.py` draws the last run of bench/scale.jsonl anew.
"""

import json
import math
import pathlib
import sys

from picture import Scale, grid, short, text

HERE = pathlib.Path(__file__).parent
HEIGHT, PANEL, GAP, LEFT, TOP = 810, 270, 80, 70, 120
PANEL_HEIGHT, BELOW = 220, 100
TITLES = {
    "elements": "elements of the map, in a blob", "listed": "elements of the map, in the body",
    "jobs": "other jobs in the queue",
    "agents": "agents that wait for other work", "values": "values of 1 MB",
}
# The lines of the panels above and below: colour, dashes, thickness.
COSTS = {
    "server CPU": ("#c1121f", "", 3), "agent CPU": ("#1f5fbf", "", 3), "workers CPU": ("#888888", "", 1.8),
}
MEMORY = {
    "server anonymous memory, most": ("#c1121f", "", 3), "server resident memory, peak": ("#c1121f", "2 4", 1.8),
    "server anonymous memory, before": ("#c1121f", "7 4", 1.8),
    "agent anonymous memory, most": ("#1f5fbf", "", 3), "agent resident memory, peak": ("#1f5fbf", "2 4", 1.8),
}
# As far as a cost may grow along a curve and still be called flat.
FLAT = 1.2


def draw(lines, path):
    by_curve = {}
    for line in lines:
        by_curve.setdefault(line["work"].removeprefix("scale: "), {})[line["contender"]] = line
    by_curve = {curve: by_curve[curve] for curve in TITLES if curve in by_curve}
    if not by_curve:
        return
    machine = lines[0]["machine"]
    width = LEFT + len(by_curve) * (PANEL + GAP)
    shapes = [
        text(30, 32, "farrow: what an element costs, and what memory it takes, as things grow", size=19, weight="bold"),
        text(30, 53, f"{machine['cores']} cores, {machine['model']}, {machine['at'][:10]}, farrow {lines[0]['commit']}; one "
             f"agent of 2 slots, Python; medians; shaded: up to {FLAT - 1:.0%} above the smallest size", colour="#666"),
    ]
    for column, (curve, of) in enumerate(by_curve.items()):
        left = LEFT + column * (PANEL + GAP)
        unit = next(line["unit"] for name, line in of.items() if name in COSTS).removeprefix("us/")
        scale = ("ms", 1e3) if unit == "value" else ("µs", 1)
        shapes += panel(curve, f"CPU {scale[0]} of one {unit}", of, COSTS, scale[1], left, TOP)
        shapes += panel(curve, "memory, MiB", of, MEMORY, 2**20, left, TOP + PANEL_HEIGHT + BELOW)
    shapes += legend(COSTS, 30, HEIGHT - 52)
    shapes += legend(MEMORY, 30, HEIGHT - 26)
    pathlib.Path(path).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" '
        'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="13">\n'
        f'<rect width="{width}" height="{HEIGHT}" fill="white"/>\n' + "\n".join(shapes) + "\n</svg>\n",
        encoding="utf-8")


def panel(curve, title, of, styles, scale, left, top):
    points = {name: [(int(size.replace(",", "")), figure / scale) for size, figure in of[name]["medians"].items()]
              for name in styles if name in of}
    across = Scale([size for line in points.values() for size, _ in line], left, left + PANEL)
    up = Straight(max(figure for line in points.values() for _, figure in line), top + PANEL_HEIGHT, top)
    yield text(left, top - 12, title, weight="bold")
    yield from grid(across, None, left, top, PANEL, PANEL_HEIGHT)
    for mark in up.marks():
        yield text(left - 8, up(mark) + 4, f"{mark:g}", anchor="end", colour="#444")
        yield f'<path d="M{left} {up(mark):.1f} h{PANEL}" stroke="#eeeeee"/>'
    for power in across.powers():
        yield text(across(10**power), top + PANEL_HEIGHT + 20, short(10**power), anchor="middle", colour="#444")
    yield text(left + PANEL / 2, top + PANEL_HEIGHT + 42, TITLES[curve], anchor="middle", colour="#444")
    for name, line in points.items():
        colour, dashes, thick = styles[name]
        if not dashes and thick > 2:
            first, low, high = line[0][1], across(line[0][0]), across(line[-1][0])
            yield (f'<rect x="{low:.1f}" y="{up(first * FLAT):.1f}" width="{high - low:.1f}" '
                   f'height="{up(first) - up(first * FLAT):.1f}" fill="{colour}" fill-opacity="0.12"/>')
        places = [(across(size), up(figure)) for size, figure in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield (f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{thick}" '
               f'stroke-dasharray="{dashes}"/>')
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{thick + 0.5}" fill="{colour}"/>' for x, y in places)


def legend(styles, left, y):
    for name, (colour, dashes, thick) in styles.items():
        yield (f'<line x1="{left}" y1="{y}" x2="{left + 34}" y2="{y}" stroke="{colour}" stroke-width="{thick}" '
               f'stroke-dasharray="{dashes}"/>')
        yield text(left + 42, y + 4, name, size=12)
        left += 60 + 7 * len(name)


class Straight:
    """An axis from 0, on which what is twice as much is twice as high: what is flat looks flat."""

    def __init__(self, most, begin, end):
        power = 10 ** math.floor(math.log10(max(most, 1e-9)))
        self.step = next(step * power for step in (0.2, 0.5, 1, 2, 5) if most * 1.25 <= 6 * step * power)
        self.n_steps = math.ceil(most * 1.25 / self.step)
        self.begin, self.end = begin, end

    def __call__(self, value):
        return self.begin + min(max(value / (self.n_steps * self.step), 0), 1) * (self.end - self.begin)

    def marks(self):
        return [step * self.step for step in range(self.n_steps + 1)]


def main():
    with open(HERE / "scale.jsonl", encoding="utf-8") as kept:
        lines = [json.loads(line) for line in kept]
    draw([line for line in lines if line["at"] == lines[-1]["at"]], HERE / "scale.svg")


if __name__ == "__main__":
    sys.exit(main())

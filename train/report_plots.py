"""Charts of the report as inline SVG: no script, no picture file, colours from the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

MOST_POINTS = 500  # of a line; more are averaged, since no screen shows them
LOG_FROM = 20.0  # a wider span of values than this gets a logarithmic axis, if all are positive
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line: `style` is a class of the style sheet; `dots` marks the points too and names each when pointed at."""

    name: str
    points: Sequence[Point]
    style: str
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """Values to pixels: `low` at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """The pixel of a value; a value beyond the axis lies at its end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int) -> list[float]:
        """Round values to label, about `count` of them."""
        if not self.log:
            step = round_step((self.high - self.low) / count)
            first = math.ceil(self.low / step - 1e-9)
            return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            ticks = [digit * 10.0**power for power in powers for digit in digits]
            ticks = [tick for tick in ticks if self.low * 0.999 <= tick <= self.high * 1.001]
            if len(ticks) <= count + 2:
                break
        return ticks[:: max(1, len(ticks) // (count + 2))]


def line_chart(
    label: str, series: Sequence[Series], unit: str = "", width: int = 1000, height: int = 320, zero: bool = False,
    legend: bool = True,
) -> Markup:  # fmt: skip
    """A chart of values over training steps; empty where there is no point.

    `zero` begins the axis at 0; without `legend` the page says itself which line is which.
    """
    series = [Series(one.name, thinned(finite(one.points)), one.style, one.dots) for one in series]
    series = [one for one in series if one.points]
    if not series:
        return Markup("")
    values = [y for one in series for _, y in one.points]
    steps = [x for one in series for x, _ in one.points]
    x_axis = Axis(min(steps), max(steps) if max(steps) > min(steps) else min(steps) + 1, 62, width - 14)
    legend = legend and len(series) > 1
    y_axis = value_axis(values, zero, height - 34, 34 if legend else 12)
    parts = [grid(x_axis, y_axis, width, height, unit)]
    place = 62.0
    for one in series:
        parts += drawn(one, x_axis, y_axis)
        if legend:
            parts += [f'<line class="line {escape(one.style)}" x1="{place}" x2="{place + 20}" y1="14" y2="14"/>',
                      f'<text class="legend" x="{place + 26}" y="18">{escape(one.name)}</text>']  # fmt: skip
            place += 46 + 6.6 * len(one.name)
    return picture(label, width, height, parts)


def drawn(series: Series, x_axis: Axis, y_axis: Axis) -> list[str]:
    """A line with its dots."""
    places = [(x_axis.place(x), y_axis.place(y)) for x, y in series.points]
    path = " ".join(f"{x},{y}" for x, y in places)
    title = f"<title>{escape(series.name)}</title>"
    parts = [f'<polyline class="line {escape(series.style)}" points="{path}">{title}</polyline>']
    if series.dots:
        parts += [
            f'<circle class="dot {escape(series.style)}" cx="{cx}" cy="{cy}" r="3.5">'
            f"<title>{escape(series.name)}, step {x:g}: {y:.4g}</title></circle>"
            for (cx, cy), (x, y) in zip(places, series.points, strict=True)
        ]
    return parts


def bar_chart(
    label: str, edges: Sequence[float], counts: Sequence[int], over: int = 0, width: int = 1000, height: int = 230
) -> Markup:
    """A histogram; `over` is a last bar in a warning colour for what lies above the last edge."""
    if len(edges) < 2 or not any([*counts, over]):
        return Markup("")
    bars = [*counts, *([over] if over else [])]
    left, right, bottom, top = 62, width - 14, height - 38, 16
    y_axis = Axis(0, max(bars) * 1.08, bottom, top)
    step = (right - left) / len(bars)
    parts = []
    for tick in y_axis.ticks(4):
        y = y_axis.place(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{left - 8}" y="{y + 4}">{number(tick)}</text>')
    for place, count in enumerate(bars):
        x, y = left + place * step, y_axis.place(count)
        beyond = place >= len(counts)
        said = f"over {edges[-1]:g}" if beyond else f"{edges[place] + 1:g} to {edges[place + 1]:g}"
        parts.append(
            f'<rect class="bar{" over" if beyond else ""}" x="{x + 1:.1f}" y="{y}" width="{step - 2:.1f}" '
            f'height="{bottom - y:.1f}"><title>{said} tokens: {count:,} rows</title></rect>'
        )
        if beyond:
            parts.append(
                f'<text class="tick" text-anchor="middle" x="{x + step / 2:.1f}" y="{bottom + 16}">over</text>'
            )
    every = max(1, math.ceil(len(edges) / 8))
    for place, edge in list(enumerate(edges))[::every]:
        x = left + place * step
        parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{bottom + 16}">{edge:g}</text>')
    parts.append(f'<text class="tick" text-anchor="middle" x="{(left + right) / 2}" y="{height - 4}">tokens in a row'
                 "</text>")  # fmt: skip
    return picture(label, width, height, parts)


def grid(x_axis: Axis, y_axis: Axis, width: int, height: int, unit: str) -> str:
    """Lines and labels behind a line chart."""
    parts = []
    for tick in y_axis.ticks(5 if height > 200 else 3):
        y = y_axis.place(tick)
        parts.append(f'<line class="grid" x1="{x_axis.start}" x2="{x_axis.end}" y1="{y}" y2="{y}"/>')
        text = f"{number(tick)}{unit}"
        parts.append(f'<text class="tick" text-anchor="end" x="{x_axis.start - 8}" y="{y + 4}">{escape(text)}</text>')
    for tick in x_axis.ticks(9 if width > 500 else 5):
        if tick == int(tick):
            x = x_axis.place(tick)
            parts.append(f'<text class="tick" text-anchor="middle" x="{x}" y="{height - 16}">{tick:,.0f}</text>')
    scale = "step (logarithmic values)" if y_axis.log else "step"
    middle = (x_axis.start + x_axis.end) / 2
    parts.append(f'<text class="tick" text-anchor="middle" x="{middle}" y="{height - 2}">{scale}</text>')
    return "".join(parts)


def picture(label: str, width: int, height: int, parts: Sequence[str]) -> Markup:
    """The finished SVG; `label` is what a screen reader says."""
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def value_axis(values: Sequence[float], zero: bool, bottom: float, top: float) -> Axis:
    """An axis that shows all values with a little room, logarithmic where they span much."""
    low, high = min(values), max(values)
    if low > 0 and high / low > LOG_FROM and not zero:
        return Axis(low / 1.15, high * 1.15, bottom, top, log=True)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    if zero and low >= 0:
        return Axis(0.0, high * 1.12 or 1.0, bottom, top)
    return Axis(low - room, high + room, bottom, top)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """An exponential moving average over about a 25th of the points, unbiased at the beginning; none for a few."""
    points = finite(points)
    if len(points) < 12:
        return []
    keep = 1 - 1 / max(2.0, len(points) / 25)
    result, mean, weight = [], 0.0, 0.0
    for x, y in points:
        mean, weight = keep * mean + (1 - keep) * y, keep * weight + (1 - keep)
        result.append((x, mean / weight))
    return result


def finite(points: Sequence[Point]) -> list[Point]:
    """The points that are numbers."""
    return [(x, y) for x, y in points if y is not None and math.isfinite(y)]


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS points, neighbours averaged."""
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((digit * power for digit in (1, 2, 5) if digit * power >= rough * 0.999), 10 * power)


def number(value: float) -> str:
    """A tick's label: short, with k and M for large numbers."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{round(value, 10):g}"

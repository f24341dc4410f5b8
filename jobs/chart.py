"""Line charts as SVG text: no library, no script, every text escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from jobs.metrics_file import Curve

WIDTH, HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 30
# Okabe and Ito's colours, told apart by colour-blind eyes
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c6d00")


def line_chart(title: str, series: Sequence[tuple[str, Curve]]) -> str:
    """Return an SVG of curves over the step.

    Args:
        title: what the values are.
        series: (label, points); values that are not finite leave a gap.
    """
    finite = [[(x, y) for x, y in curve if math.isfinite(y)] for _, curve in series]
    points = [point for curve in finite for point in curve]
    if not points:
        return ""
    x_ticks = nice_ticks(min(x for x, _ in points), max(x for x, _ in points), 5)
    y_ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points), 4)
    frame = _Frame(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
    ]
    for tick in y_ticks:
        y = frame.y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x = frame.x(tick)
        label = _thousands(tick)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{label}</text>')
    for index, ((label, curve), drawn) in enumerate(zip(series, finite, strict=True)):
        parts += _draw(label, curve, drawn, COLORS[index % len(COLORS)], frame)
    return "".join([*parts, "</svg>"])


def sparkline(curve: Curve) -> str:
    """Return a small SVG of one curve's shape, "" with fewer than two points."""
    points = [(x, y) for x, y in curve if math.isfinite(y)]
    if len(points) < 2:
        return ""
    low, high = min(y for _, y in points), max(y for _, y in points)
    first, last = points[0][0], points[-1][0]
    path = " ".join(
        f"{2 + 86 * (x - first) / max(1, last - first):.1f},"
        f"{20 - 18 * (y - low) / ((high - low) or 1):.1f}"
        for x, y in points
    )
    return f'<svg class="spark" viewBox="0 0 90 22"><polyline points="{path}"/></svg>'


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers that enclose the range."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m for m in (1, 2, 2.5, 5, 10) if m * power >= raw), 10) * power
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 12) for index in range(first, last + 1)]


class _Frame:
    """Values -> pixels."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self._x = (x_low, (WIDTH - _LEFT - _RIGHT) / (x_high - x_low))
        self._y = (y_low, (HEIGHT - _TOP - _BOTTOM) / (y_high - y_low))

    def x(self, value: float) -> float:
        return _LEFT + (value - self._x[0]) * self._x[1]

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self._y[0]) * self._y[1]


def _draw(label: str, curve: Curve, drawn: Curve, color: str, frame: _Frame) -> list[str]:
    pieces: list[list[str]] = [[]]
    for x, y in curve:
        if math.isfinite(y):
            pieces[-1].append(f"{frame.x(x):.1f},{frame.y(y):.1f}")
        elif pieces[-1]:
            pieces.append([])
    name = escape(label)
    parts = [
        f'<polyline points="{" ".join(piece)}" stroke="{color}"><title>{name}</title></polyline>'
        for piece in pieces
        if len(piece) > 1
    ]
    if len(drawn) <= 30:  # sparse evaluations are seen as points
        parts += [
            f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3" fill="{color}">'
            f"<title>{name}: {y:g} at step {x}</title></circle>"
            for x, y in drawn
        ]
    return parts


def _thousands(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10000 else f"{value:g}"

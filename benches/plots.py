"""Plots as SVG, written without a library: bars of ratios, lines of growth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

Point = tuple[float, float]

COLOURS = ("#2a6fbb", "#d1662a", "#3d8f4f", "#8a55b0", "#a58a1f", "#4a9aa5", "#b04a6a")
LEFT, WIDTH, ROW = 150, 640, 22

_SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
 font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
<text x="10" y="20" font-size="14">{title}</text>
{body}
</svg>
"""


def bars(title: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """A group of bars a row, one for each series, on a logarithmic axis from 1."""
    series = list(dict.fromkeys(name for _, values in rows for name in values))
    most = max((v for _, values in rows for v in values.values()), default=10.0)
    body, top = list(_legend(series)), 70.0
    for label, values in rows:
        body.append(_text(LEFT - 8, top + 12, label, "end"))
        for name, value in values.items():
            width = (WIDTH - LEFT - 70) * _share(value, 1, most)
            colour = COLOURS[series.index(name)]
            body.append(
                f'<rect class="bar" x="{LEFT}" y="{top:.0f}" width="{width:.1f}"'
                f' height="14" fill="{colour}"/>'
            )
            body.append(_text(LEFT + width + 4, top + 12, times(value), "start"))
            top += 16
        top += 8
    return _page(title, top + 10, body)


def times(ratio: float) -> str:
    """A ratio to read: `0.987×`, `12.3×`, `1,280×`."""
    return f"{_number(ratio)}×"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def lines(title: str, series: Mapping[str, Sequence[Point]]) -> str:
    """Lines on two logarithmic axes: a straight one of slope 1 is linear growth."""
    points = [point for line in series.values() for point in line]
    (left, right), (low, high) = ((min(v), max(v)) for v in zip(*points, strict=True))
    top, bottom = 70.0 + 16 * len(series), 380.0 + 16 * len(series)
    body = list(_legend(list(series), down=True))
    for value, x in ((left, LEFT), (right, WIDTH - 60)):
        body.append(_text(x, bottom + 18, f"{value:,.0f} nodes", "middle"))
    for value in (low, high):
        y = bottom - (bottom - top) * _share(value, low, high)
        body.append(_text(LEFT - 8, y + 4, f"{_number(value * 1e3)} ms", "end"))
    for colour, line in zip(COLOURS * 3, series.values(), strict=False):
        path = " ".join(
            f"{LEFT + (WIDTH - LEFT - 40) * _share(x, left, right):.1f},"
            f"{bottom - (bottom - top) * _share(y, low, high):.1f}"
            for x, y in line
        )
        body.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}"'
            ' stroke-width="2"/>'
        )
    return _page(title, bottom + 30, body)


def _share(value: float, low: float, high: float) -> float:
    """How far along a logarithmic axis a value is."""
    if high <= low:
        return 0.5
    return max(0.0, math.log(value / low) / math.log(high / low))


def _legend(names: Sequence[str], *, down: bool = False) -> Iterator[str]:
    for i, name in enumerate(names):
        x, y = (20, 40 + 16 * i) if down else (20 + 200 * i, 40)
        colour = COLOURS[i % len(COLOURS)]
        yield f'<rect x="{x}" y="{y}" width="10" height="10" fill="{colour}"/>'
        yield _text(x + 16, y + 10, name, "start")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _page(title: str, height: float, body: Sequence[str]) -> str:
    return _SVG.format(
        width=WIDTH, height=f"{height:.0f}", title=escape(title), body="\n".join(body)
    )

"""Curves as SVG, with a logarithmic x axis; enough for one figure, and no library for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 900, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 270, 50, 60
_COLORS = ("#1f5fa8", "#4f9bd9", "#123a66", "#b5521b", "#e08a4a", "#6e2f0c")
_DASHES = ("none", "7 4", "2 3")


def write_svg(
    path: Path, *, title: str, x_label: str, y_label: str, curves: Mapping[str, Points], limit: float
) -> None:
    """Draw the curves; `limit` is a horizontal line that none should cross."""
    points = [point for curve in curves.values() for point in curve]
    low, high = math.log10(min(x for x, _ in points)), math.log10(max(x for x, _ in points))
    step = _step(max([limit, *(y for _, y in points)]) * 1.1)
    top = step * math.ceil(max([limit, *(y for _, y in points)]) * 1.1 / step)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - low) / ((high - low) or 1)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _TOP - _BOTTOM),
        )

    left, bottom = at(10**low, 0)
    right, _ = at(10**high, 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 28, title, size=16),
        _text((left + right) / 2, _HEIGHT - 14, x_label, anchor="middle"),
        f'<g transform="rotate(-90 18 {_HEIGHT / 2})">{_text(18, _HEIGHT / 2, y_label, anchor="middle")}</g>',
    ]
    for number in range(round(top / step) + 1):
        _, y = at(10**low, number * step)
        parts += [_line(left, y, right, y, "#dddddd"), _text(left - 8, y + 4, f"{number * step:g}", anchor="end")]
    for x in sorted({x for x, _ in points}):
        across, _ = at(x, 0)
        parts += [_line(across, bottom, across, bottom + 5, "black"), _text(across, bottom + 20, f"{x:,.0f}", "middle")]
    parts.append(_line(left, bottom, right, bottom, "black"))
    _, y = at(10**low, limit)
    parts += [_line(left, y, right, y, "#c00000", dash="4 4"), _text(right, y - 6, f"target {limit:g}", "end")]
    for place, (name, curve) in enumerate(curves.items()):
        color, dash = _COLORS[place % len(_COLORS)], _DASHES[place % len(_DASHES)]
        positions = [at(x, value) for x, value in curve]
        path_of = " ".join(f"{x:.1f},{y:.1f}" for x, y in positions)
        parts.append(
            f'<polyline points="{path_of}" fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in positions]
        legend = _TOP + 20 + 22 * place
        parts += [
            _line(_WIDTH - _RIGHT + 60, legend - 4, _WIDTH - _RIGHT + 90, legend - 4, color, dash=dash, width=2),
            _text(_WIDTH - _RIGHT + 97, legend, name, size=11),
        ]
    path.write_text("\n".join([*parts, "</svg>", ""]))


def _step(top: float) -> float:
    """A round number that divides the axis into about five."""
    rough = top / 5
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def _line(x1: float, y1: float, x2: float, y2: float, color: str, *, dash: str = "none", width: int = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width}" '
        f'stroke-dasharray="{dash}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", *, size: int = 13) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'

"""Charts as the numbers that an SVG is made of. Pure.

Responsible for: shapes from values, and what a chart says to somebody who cannot see it. Must not know: HTML, what the
values are of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from disbatch_host.web.pages.words import number

HEIGHT = 40
_STEP = 4  # from one value to the next
_TOP = 4  # above the most
_LEAST_BAR = 1.4  # of a value that is not nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One value."""

    x: int
    y: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A line and the area below it, or bars."""

    width: int
    line: str  # points
    area: str
    bars: Sequence[Bar]
    now: str
    least: str
    most: str
    most_at: int  # number of the value
    begin: str = ""  # of its axis
    end: str = ""

    def label(self, what: str, when: str) -> str:
        """All of it in one sentence."""
        return f"{what} in {when}: now {self.now}, least {self.least}, most {self.most}"


def chart(values: Sequence[float], *, begin: str = "", end: str = "") -> Chart | None:
    """None: there are not enough values to draw."""
    if len(values) < 2:
        return None
    most = max(values)
    scale = (HEIGHT - _TOP) / most if most > 0 else 0.0
    tops = [round(HEIGHT - value * scale, 1) for value in values]
    points = [f"{n * _STEP},{top:g}" for n, top in enumerate(tops)]
    width = (len(values) - 1) * _STEP
    bars = [
        Bar(x=n * _STEP, y=round(HEIGHT - height, 1), height=height)
        for n, (value, top) in enumerate(zip(values, tops, strict=True))
        if value > 0 and (height := max(_LEAST_BAR, round(HEIGHT - top, 1)))
    ]
    area = f"0,{HEIGHT} {' '.join(points)} {width},{HEIGHT}" if most > 0 else ""
    return Chart(
        width=width, line=" ".join(points), area=area, bars=bars,
        now=_said(values[-1]), least=_said(min(values)), most=_said(most), most_at=list(values).index(most),
        begin=begin, end=end,
    )  # fmt: skip


def per_minute(parts: Sequence[float], step_seconds: float) -> list[float]:
    """Counts of parts as a rate."""
    return [one * 60 / step_seconds for one in parts]


def _said(value: float) -> str:
    """One that is not nothing is never said to be 0: the line shows it."""
    if value <= 0:
        return "0"
    if value < 0.1:
        return "<0.1"
    return number(round(value)) if value >= 9.95 else f"{value:.1f}".removesuffix(".0")

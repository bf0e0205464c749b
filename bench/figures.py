"""What was measured: figures by round, each beside what ran next to it, and the tables that are made of them.

Must not know: how anything is measured.

Rules:
1. A ratio is taken round by round, between two measurements that stand next to each other in time; then the median of
   the ratios is taken. A slow minute of the machine is then in both halves of one ratio.
2. A target is held against the median. What misses it says so in the table; nothing is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Target:
    """What must be reached: a limit for the figure itself, or for its ratio to what ran beside it."""

    of: Literal["value", "ratio"]
    sign: Literal[">=", "<="]
    limit: float

    def is_met(self, figure: float) -> bool:
        return figure >= self.limit if self.sign == ">=" else figure <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure with all its rounds."""

    bench: str
    what: str
    unit: str
    beside: str | None
    targets: Sequence[Target]
    values: list[float] = field(default_factory=list)
    beside_values: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Of each round in which there was something beside it."""
        pairs = zip(self.values, self.beside_values, strict=len(self.beside_values) > 0)
        return [value / beside for value, beside in pairs if beside]

    @property
    def is_met(self) -> bool | None:
        """None: there is no target, or nothing that it could be held against."""
        verdicts = []
        for target in self.targets:
            figures = self.values if target.of == "value" else self.ratios
            if figures:
                verdicts.append(target.is_met(statistics.median(figures)))
        return all(verdicts) if verdicts else None

    def cells(self) -> tuple[str, ...]:
        """Measured, beside it, ratio, target, verdict: as text."""
        target = ", ".join(_target_in_words(one, self.unit) for one in self.targets)
        return (
            f"{in_words(self.values)} {self.unit}",
            "" if not self.beside_values else f"{self.beside}: {number(statistics.median(self.beside_values))}",
            in_words(self.ratios) if self.ratios else "",
            target,
            {None: "", True: "met", False: "missed"}[self.is_met],
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "bench": self.bench,
            "what": self.what,
            "unit": self.unit,
            "values": self.values,
            "beside": self.beside,
            "beside_values": self.beside_values,
            "ratios": self.ratios,
            "targets": [{"of": one.of, "sign": one.sign, "limit": one.limit} for one in self.targets],
            "is_met": self.is_met,
        }


class Table:
    """All rows of a run, in the order in which they first came."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self.notices: list[str] = []

    def add(
        self,
        bench: str,
        what: str,
        value: float,
        unit: str,
        *,
        beside: tuple[str, float] | None = None,
        targets: Sequence[Target] = (),
    ) -> None:
        """One figure of one round; `beside`: the name and the figure of what ran next to it."""
        row = self.rows.get((bench, what))
        if row is None:
            name = None if beside is None else beside[0]
            row = Row(bench=bench, what=what, unit=unit, beside=name, targets=tuple(targets))
            self.rows[bench, what] = row
        row.values.append(value)
        if beside is not None:
            row.beside_values.append(beside[1])
        print(f"  {what}: {number(value)} {unit}", flush=True)

    def notice(self, text: str) -> None:
        """Something that is missing from the table, and why."""
        if text not in self.notices:
            self.notices.append(text)
            print(f"  {text}", flush=True)

    def as_text(self) -> str:
        lines = [("", *_HEADINGS), *((row.what, *row.cells()) for row in self.rows.values())]
        return "\n".join([*aligned(lines), *self.notices])

    def as_markdown(self) -> str:
        lines = [f"| what | {' | '.join(_HEADINGS)} | command |", "|---" * (len(_HEADINGS) + 2) + "|"]
        for row in self.rows.values():
            lines.append(f"| {row.what} | {' | '.join(row.cells())} | `bench/run.py {row.bench}` |")
        return "\n".join([*lines, "", *self.notices])


_HEADINGS = ("measured (median, min..max)", "beside it", "ratio (median, min..max)", "target", "verdict")


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text, each column as wide as its widest cell."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def number(value: float) -> str:
    """With as many digits as mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def in_words(values: Sequence[float]) -> str:
    """The median, and from where to where."""
    median = number(statistics.median(values))
    return median if len(values) == 1 else f"{median} ({number(min(values))}..{number(max(values))})"


def _target_in_words(target: Target, unit: str) -> str:
    sign = "≥" if target.sign == ">=" else "≤"
    return f"{sign} {number(target.limit)} {unit if target.of == 'value' else 'x'}"

"""Two revisions beside each other: which figures have which limits, in which order they are measured, what came out.

Must not know: how anything is measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import paired
from figures import aligned, number
from paired import Interval, Verdict

CPU_LIMIT = 1.03  # new/old, of the CPU of a task
TIME_LIMIT = 1.10  # new/old, of the time of a task

CASES = ("oneshot-sqlite", "oneshot-mongodb", "worker-sqlite", "worker-mongodb", "latency-sqlite", "latency-mongodb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One thing that is measured. `limit` holds for its ratio; None: the figure is only shown."""

    name: str
    unit: str
    limit: float | None = None
    is_rate: bool = False  # more is better

    def ratio(self, old: float, new: float) -> float:
        """How many times as much the new one costs. Of a rate: how many times as long a task takes."""
        return old / new if self.is_rate else new / old


RATE = Figure(name="tasks a second (ratio: time of a task)", unit="tasks/s", limit=TIME_LIMIT, is_rate=True)
CPU = Figure(name="CPU of a task", unit="µs", limit=CPU_LIMIT)
CPU_WITH_MONGOD = Figure(name="CPU of a task, with mongod", unit="µs", limit=CPU_LIMIT)
CPU_OF_NODE = Figure(name="CPU of a task, node and supervisor alone", unit="µs")
CPU_OF_MONGOD = Figure(name="CPU of a task, mongod alone", unit="µs")
STARTED_P50 = Figure(name="push to start, p50", unit="ms", limit=TIME_LIMIT)
STARTED_P99 = Figure(name="push to start, p99", unit="ms")
SEEN_P50 = Figure(name="push to end seen by a reader, p50", unit="ms", limit=TIME_LIMIT)
SEEN_P99 = Figure(name="push to end seen by a reader, p99", unit="ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One figure of one case with the values of all pairs."""

    case: str
    figure: Figure
    old: list[float] = field(default_factory=list)
    new: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [self.figure.ratio(old, new) for old, new in zip(self.old, self.new, strict=True)]

    @property
    def interval(self) -> Interval:
        return paired.interval(self.ratios)

    @property
    def verdict(self) -> Verdict | None:
        """None: there is no limit."""
        return None if self.figure.limit is None else paired.verdict(self.interval, self.figure.limit)

    def cells(self) -> tuple[str, ...]:
        found, limit, verdict = self.interval, self.figure.limit, self.verdict
        return (
            self.case,
            self.figure.name,
            f"{number(statistics.median(self.old))} {self.figure.unit}",
            f"{number(statistics.median(self.new))} {self.figure.unit}",
            f"{found.ratio:.3f}",
            f"{found.low:.3f}..{found.high:.3f}",
            "" if limit is None else f"{limit:.2f}",
            "" if verdict is None else str(verdict),
            str(len(self.old)),
        )

    def as_json(self) -> dict[str, Any]:
        found = self.interval
        return {
            "case": self.case,
            "figure": self.figure.name,
            "unit": self.figure.unit,
            "old": self.old,
            "new": self.new,
            "ratio": found.ratio,
            "low": found.low,
            "high": found.high,
            "limit": self.figure.limit,
            "verdict": self.verdict,
        }


def compare(
    case: str,
    measure: Callable[[int], tuple[Mapping[Figure, float], Mapping[Figure, float]]],
    *,
    least: int,
    most: int,
    report: Callable[[str], None],
) -> list[Compared]:
    """Measure pairs until all figures that have a limit are decided: at least `least` pairs, at most `most`.

    `measure` takes the number of the pair, from 0, and gives the figures of the old and the new revision. `report` is
    given a line for each pair.
    """
    rows: dict[Figure, Compared] = {}
    pairs = 0
    while paired.goes_on(_verdicts(rows), pairs=pairs, least=least, most=most):
        old, new = measure(pairs)
        pairs += 1
        for figure in old:
            row = rows.setdefault(figure, Compared(case=case, figure=figure))
            row.old.append(old[figure])
            row.new.append(new[figure])
        judged = [row for row in rows.values() if row.figure.limit is not None]
        report(f"{case}, pair {pairs}: " + ", ".join(f"{row.figure.name} {row.ratios[-1]:.3f}" for row in judged))
    return list(rows.values())


def _verdicts(rows: Mapping[Figure, Compared]) -> list[Verdict]:
    return [row.verdict for row in rows.values() if len(row.old) > 1 and row.verdict is not None]


def as_text(rows: Sequence[Compared]) -> str:
    headings = ("case", "figure", "old", "new", "new/old", "95 % interval", "limit", "verdict", "pairs")
    return "\n".join(aligned([headings, *(row.cells() for row in rows)]))


def all_ok(rows: Sequence[Compared]) -> bool:
    """Whether each figure that has a limit was shown to keep it."""
    return all(row.verdict in (None, Verdict.OK) for row in rows)

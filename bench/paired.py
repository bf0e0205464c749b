"""What pairs of measurements say about a ratio: its mean, how sure that is, and whether it keeps to a limit.

Must not know: what was measured.

Rules:
1. A ratio is taken pair by pair, between two measurements that were made one right after the other: a slow minute of
   the machine is then in both halves of one ratio.
2. Ratios multiply, so their logarithms are averaged (geometric mean), with an interval from Student's t distribution.
3. A limit is kept when the whole interval keeps it, and exceeded when the whole interval exceeds it. Anything else is
   undecided, and more pairs may decide it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# The 97.5th percentile of Student's t distribution with 1, 2, … 30 degrees of freedom.
_T_975 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


class Verdict(StrEnum):
    OK = "ok"  # the upper end of the interval is at most the limit
    WORSE = "worse"  # the lower end is above it
    UNDECIDED = "undecided"  # the limit lies within the interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean ratio with the two ends of its 95 % confidence interval."""

    ratio: float
    low: float
    high: float


def interval(ratios: Sequence[float]) -> Interval:
    """The geometric mean of at least two positive ratios, with its 95 % confidence interval."""
    logarithms = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logarithms)
    half = t_975(len(logarithms) - 1) * statistics.stdev(logarithms) / math.sqrt(len(logarithms))
    return Interval(ratio=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half))


def t_975(degrees: int) -> float:
    """The 97.5th percentile of Student's t distribution: 95 % of it lies between minus this and this."""
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    # Its expansion in 1/degrees (Abramowitz and Stegun, 26.7.5): right to four digits above 30.
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def verdict(found: Interval, limit: float) -> Verdict:
    if found.high <= limit:
        return Verdict.OK
    return Verdict.WORSE if found.low > limit else Verdict.UNDECIDED


def goes_on(verdicts: Sequence[Verdict], *, pairs: int, least: int, most: int) -> bool:
    """Whether another pair is to be measured after `pairs` of them, where these are the verdicts so far."""
    if pairs < least:
        return True
    return pairs < most and Verdict.UNDECIDED in verdicts

"""Durations, sizes, rates and limits of failures as people write them: `90`, `"90s"`, `"1h30m"`; `65536`, `"64M"`,
`"1.5G"`; `"100/m"`; `"50/10m"`, `"20%/100"`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_PLAIN = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_SIZE_MAX = 2**63 - 1  # the most that rlimits and databases hold
_DURATION_MAX = 10 * 365 * 86400.0  # ten years; more is a typo, and this is far below any timer's limit


def parse_duration(value: float | str) -> float:
    """Seconds of `90`, `"90"`, `"90s"`, `"1h30m"`, `"250ms"`, `"2d"`. Raises ValueError that says what is expected."""
    expected = 'expected seconds or a duration like "90s" or "1h30m"'
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{expected}, found {type(value).__name__}")
    if isinstance(value, str):
        text = value.strip(" ")
        if _PLAIN.fullmatch(text):
            seconds = float(text)
        elif _DURATION.fullmatch(text):
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
        else:
            raise ValueError(f'{expected}, found "{value:.40}"')
    else:
        seconds = float(value) if abs(value) < _DURATION_MAX * 2 else math.inf
    if not 0 <= seconds <= _DURATION_MAX:
        raise ValueError(f"{expected}, from 0 to ten years, found {value!r:.40}")
    return seconds


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in any period of this many seconds."""

    count: int
    seconds: float

    @property
    def burst(self) -> int:
        """How many may start at once: as many as accrue within a tenth of a second, the interval between checks. At
        most half of the count, or the others would come too slowly."""
        return max(1, min(self.count // 2, int(self.count * BURST_SECONDS / self.seconds)))

    @property
    def interval_seconds(self) -> float:
        """The average interval between starts: chosen so that, with a burst, there are never more than `count`."""
        return self.seconds / (self.count - self.burst + 1)


BURST_SECONDS = 0.1


def parse_rate(text: str) -> Rate:
    """`"100/m"`, `"5/s"`, `"10/30s"`, `"1000/d"`. Raises ValueError that says what is expected."""
    expected = 'expected a rate like "100/m" or "10/30s"'
    if not isinstance(text, str):
        raise ValueError(f"{expected}, found {type(text).__name__}")
    match = _RATE.fullmatch(text.strip(" "))
    if match is None:
        raise ValueError(f'{expected}, found "{text:.40}"')
    count, seconds = int(match[1]), parse_duration(match[2] if match[2][0].isdigit() else f"1{match[2]}")
    if not 1 <= count <= _RATE_MAX or seconds <= 0:
        raise ValueError(f'{expected}, from 1 to {_RATE_MAX} per period, found "{text:.40}"')
    return Rate(count, seconds)


_RATE = re.compile(r"(\d{1,10})\s*/\s*((?:\d+(?:\.\d+)?)?(?:ms|s|m|h|d))", re.ASCII)
_RATE_MAX = 10**9


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """So many failures are too many: `count` of them within `seconds`, or among the last `of_last` tasks that ended."""

    count: int
    seconds: float | None = None
    of_last: int | None = None


def parse_failure_limit(text: str) -> FailureLimit:
    """`"50/10m"`, `"50/h"`, `"20%/100"`. Raises ValueError that says what is expected."""
    expected = 'expected failures in a time like "50/10m", or a share of the last tasks like "20%/100"'
    if not isinstance(text, str):
        raise ValueError(f"{expected}, found {type(text).__name__}")
    found = f'found "{text:.40}"'
    match = _FAILURES_IN_TIME.fullmatch(text.strip(" "))
    if match is not None:
        count = int(match[1])
        seconds = parse_duration(match[2] if match[2][0].isdigit() else f"1{match[2]}")
        if not 1 <= count <= FAILURES_MAX or seconds <= 0:
            raise ValueError(f"{expected}, from 1 to {FAILURES_MAX} failures, {found}")
        return FailureLimit(count, seconds=seconds)
    match = _FAILURES_OF_LAST.fullmatch(text.strip(" "))
    if match is None:
        raise ValueError(f"{expected}, {found}")
    percent, of_last = float(match[1]), int(match[2])
    if not (0 < percent <= 100 and 1 <= of_last <= FAILURES_MAX):
        raise ValueError(f"{expected}, of the last 1 to {FAILURES_MAX} tasks, {found}")
    # Not a hair more than a whole number of tasks, which floats may make of it.
    return FailureLimit(max(1, math.ceil(round(of_last * percent / 100, 6))), of_last=of_last)


_FAILURES_IN_TIME = re.compile(r"(\d{1,6})\s*/\s*((?:\d+(?:\.\d+)?)?(?:ms|s|m|h|d))", re.ASCII)
_FAILURES_OF_LAST = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)\s*%\s*/\s*(\d{1,6})", re.ASCII)
FAILURES_MAX = 10_000  # that are looked at again and again


def parse_size(value: float | str) -> int:
    """Bytes of `65536`, `"64M"`, `"1.5G"`, `"10K"`; powers of 1024. Raises ValueError that says what is expected."""
    expected = 'expected bytes or a size like "64M"'
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{expected}, found {type(value).__name__}")
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip(" "))
        if match is None:
            raise ValueError(f'{expected}, found "{value:.40}"')
        exact = float(match[1]) * _BYTES[match[2].upper()]
    else:
        exact = value
    if not 0 <= exact <= _SIZE_MAX or int(exact) != exact:
        raise ValueError(f"{expected}, a whole number from 0 to 2^63 - 1, found {value!r:.40}")
    return int(exact)


def format_duration(seconds: float) -> str:
    """For people: `0.25 s`, `12 s`, `1h30m`, `2d4h`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    rest = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def format_size(size: float) -> str:
    """For people: `512 B`, `64 MiB`, `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"

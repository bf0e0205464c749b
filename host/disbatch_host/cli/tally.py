"""What came of many tasks, in one line: the last one of everything that takes long.

Responsible for: the words. Must not know: where the numbers come from.
"""

from __future__ import annotations

from collections.abc import Mapping

from disbatch_host.cli import render

_CODES_SHOWN = 5


def ends_in_words(
    *, concluded: int, failed: int, cancelled: int = 0, orphaned: int = 0, codes: Mapping[str, int] | None = None
) -> str:
    """`453 concluded, 42 failed (exit_1 31, timeout 11), 1 orphaned`. `codes`: of the failed ones; if they are fewer,
    of the first of these."""
    parts = [f"{concluded} concluded"]
    if failed:
        parts.append(f"{failed} failed{_codes_in_words(codes or {}, failed)}")
    parts += [f"{count} {word}" for count, word in ((cancelled, "cancelled"), (orphaned, "orphaned")) if count]
    return ", ".join(parts)


def ended_in_words(count: int, seconds: float, words: str) -> str:
    """`495 ended in 41 s: 453 concluded, …`. `words`: of `ends_in_words`."""
    return f"{count} ended in {_rounded(seconds)}: {words}"


def took_in_words(run_seconds: float, since_creation_seconds: float | None, *, is_about: bool) -> str:
    """How long a batch took: `41 s from the first start to the last end, 1m2s since its creation`. `is_about`: not all
    of its tasks were looked at."""
    about = "about " if is_about else ""
    whole = "" if since_creation_seconds is None else f", {_rounded(since_creation_seconds)} since its creation"
    return f"{about}{_rounded(run_seconds)} from the first start to the last end{whole}"


def _rounded(seconds: float) -> str:
    return render.duration(round(seconds) if seconds >= 1 else round(seconds, 1))


def _codes_in_words(codes: Mapping[str, int], failed: int) -> str:
    if not codes:
        return ""
    ordered = sorted(codes.items(), key=lambda one: (-one[1], one[0]))
    shown = ", ".join(f"{code} {count}" for code, count in ordered[:_CODES_SHOWN])
    more = f" and {len(ordered) - _CODES_SHOWN} more codes" if len(ordered) > _CODES_SHOWN else ""
    counted = sum(codes.values())
    which = f"of the first {counted}: " if counted < failed else ""
    return f" ({which}{shown}{more})"

"""Numbers, times and names as the page writes them. Pure.

Responsible for: short texts. Must not know: HTML, what a value is of.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

THIN = "\u202f"  # a narrow space that does not break
_GROUPED_FROM = 10_000
_HEAD, _TAIL = 4, 4  # letters of an id that a list shows
_HEX_ID = 24  # letters: a time of 8, then a counter and what is the same in all of a program, in either order
_CUT_MIN, _CUT_MAX = 5, 20  # letters of the tail of a text that is cut in its middle
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def number(value: Any) -> str:
    """`9999`, `12 345` with narrow spaces; a dot in the middle of the line for 0 and for nothing."""
    if not value:
        return "·"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.1f}" if value < _GROUPED_FROM else number(round(value))
    whole = int(value)
    return f"{whole:,}".replace(",", THIN) if abs(whole) >= _GROUPED_FROM else str(whole)


def span(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `4 min`, `2 h 10 min`, `3 d 4 h`."""
    if seconds is None:
        return "not known"
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    rest, parts = round(seconds), []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:1] if seconds < 3_600 else parts[:2])


def size(count: float) -> str:
    """`512 B`, `3.4 KiB`, `1.2 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def percent(part: float, whole: float) -> str:
    """`78.7 %`; a share that is there is never shown as none."""
    if not whole:
        return "0 %"
    share = 100 * part / whole
    return "<0.1 %" if 0 < share < 0.1 else f"{share:.1f} %"


def short_id(text: str) -> str:
    """`1fe0346…f03`: the parts by which ids of the same second differ."""
    if len(text) == _HEX_ID:
        return f"{text[8:15]}…{text[-3:]}"
    return text if len(text) <= _HEAD + _TAIL + 1 else f"{text[:_HEAD]}…{text[-_TAIL:]}"


def halves(text: str) -> tuple[str, str]:
    """A line in two parts, for a place that shows the beginning of the first and the whole of the second: its end is
    often what tells it from others."""
    words = text.rsplit(" ", 4)
    tail = ""
    for word in reversed(words[1:]):
        longer = f"{word} {tail}".strip()
        if len(longer) > _CUT_MAX:
            break
        tail = longer
        if len(tail) >= _CUT_MIN:
            break
    if not tail:
        cut = min(_CUT_MAX, len(text) // 3)
        return text[: len(text) - cut], text[len(text) - cut :]
    return text[: len(text) - len(tail)], tail


def moment(value: Any) -> datetime | None:
    """A date of a document, as JSON or as it is."""
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def age(seconds: float | None) -> str:
    """`3 s ago`, `never`."""
    return "never" if seconds is None else f"{_coarse(max(1, round(seconds)))} ago"


def _coarse(seconds: float) -> str:
    """`3 min`, `27 h`: a span by its largest unit, but for days, of which the first is not one whole yesterday."""
    if 86_400 <= seconds < 172_800:
        return f"{seconds // 3600:.0f} h"
    return " ".join(span(seconds).replace(".0", "").split(" ")[:2])


def ago(then: datetime, now: datetime) -> str:
    """`3 min ago`, `in 4 min`, `now`."""
    seconds = (now - then).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return age(seconds) if seconds > 0 else f"in {span(-seconds)}"


def exact(then: datetime, zone: tzinfo) -> str:
    """`28 Nov 2026 15:22:04 UTC`."""
    local = then.astimezone(zone)
    return f"{local.day} {local:%b %Y %H:%M:%S} {local.tzname() or ''}".strip()


def clock(then: datetime, now: datetime, zone: tzinfo) -> str:
    """`15:22:04`, with the day where it is another one."""
    local = then.astimezone(zone)
    if local.date() == now.astimezone(zone).date():
        return f"{local:%H:%M:%S}"
    return f"{local.day} {local:%b %H:%M}" if local.year == now.astimezone(zone).year else f"{local:%Y-%m-%d}"


def zone_of(name: str, fallback: tzinfo) -> tzinfo:
    """A time zone by its name, `utc` among them; the fallback for one that is not known here."""
    if name == "utc":
        return UTC
    try:
        return ZoneInfo(name) if name else fallback
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        return fallback


def batch_state(state: str, progress: Mapping[str, Any]) -> tuple[str, str]:
    """What became of a batch: the status whose look it has, and words. Only one whose tasks all concluded is well."""
    if state != "done":
        return "running", state
    others = [(word, progress[word]) for word in ("failed", "cancelled", "orphaned") if progress.get(word)]
    if not others:
        return ("concluded", "done, all concluded") if progress.get("concluded") else ("cancelled", "done, no task")
    looks = "failed" if progress.get("failed") else others[0][0]
    return looks, ", ".join(["done", *(f"{number(count)} {word}" for word, count in others)])

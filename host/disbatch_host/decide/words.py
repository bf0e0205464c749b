"""The words that the sentences of `why` are made of. Pure.

Responsible for: lists, ages and requests as people read them. Must not know: what is said about which task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from disbatch_protocol.quantities import format_duration
from disbatch_protocol.status import Status

_NAMED_MAX = 3  # nodes or tasks that a sentence names
_LINE_MAX = 300  # characters of a reason
_ERROR_MAX = 200  # characters of a task's error


def some(names: Sequence[str], separator: str = ", ") -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return separator.join(names[:_NAMED_MAX]) + more


def have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def it_has(names: Sequence[str]) -> str:
    return "it has" if len(names) == 1 else "they have"


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LINE_MAX else f"{line[:_LINE_MAX]}…"


def by_whom(request: Mapping[str, Any], now: datetime) -> str:
    """` by matt@host, 3s ago: maintenance`, as far as that is known."""
    at = request.get("at")
    when = f", {since(at, now)} ago" if isinstance(at, datetime) else ""
    by = f" by {request['by']}" if request.get("by") else ""
    why = f": {request['why']}" if request.get("why") else ""
    return f"{by}{when}{why}"


def asked_by(request: Mapping[str, Any]) -> str:
    why = f": {request['why']}" if request.get("why") else ""
    return f"asked by {request.get('by') or 'somebody'}{why}"


def error_line(document: Mapping[str, Any]) -> str:
    """A task's error in short, in parentheses; empty if there is none, and for a success."""
    line = "" if document.get("status") == Status.CONCLUDED else error_in_short(document)
    return f" ({without_middle(line, _ERROR_MAX)})" if line else ""


def error_in_short(document: Mapping[str, Any]) -> str:
    """The error of a task or attempt on one line; empty without one. The last line of what the program printed, the
    useful one of a traceback, and all that this program says besides: neither explains an end without the other."""
    error = document.get("error")
    if not isinstance(error, Mapping):
        return ""
    own, ours = parts_of_error(error.get("message"))
    if own:
        return "; ".join([own[-1], *ours])
    said, _ = parts_of_error(error.get("detail"))
    return f"{'; '.join(ours)}{f' (stderr: {said[-1]})' if ours and said else ''}"


def parts_of_error(message: Any) -> tuple[list[str], list[str]]:
    """The lines of a program, and those that this program has put below them, without its name."""
    lines = [one for one in message.strip().splitlines() if one.strip()] if isinstance(message, str) else []
    count = len(lines)
    while count and lines[count - 1].startswith(_OURS):
        count -= 1
    return lines[:count], [one.removeprefix(_OURS) for one in lines[count:]]


_OURS = "disbatch-host: "


def without_middle(line: str, length: int) -> str:
    """At most so many characters: it may begin with a long path, and end with what is wrong."""
    half = length // 2
    return line if len(line) <= length else f"{line[: half - 1]}…{line[-half:]}"


def since(moment: Any, now: datetime) -> str:
    """The time that has passed, in words."""
    if not isinstance(moment, datetime):
        return "some time"
    seconds = max(0.0, (now - moment).total_seconds())
    return format_duration(round(seconds, 1) if seconds < 1 else round(seconds))


def ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{format_duration(round(seconds))} ago"

"""Faults: errors in something that a person has written, with the place and the remedy.

A fault is a value, never an exception: a check collects all of them, so that the author sees them at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    ERROR = "error"  # the thing cannot be used
    WARNING = "warning"  # it can, but probably not as its author wants


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One error."""

    pointer: str  # JSON pointer (RFC 6901) to the place; "" is the whole
    message: str  # what was expected and what was found
    hint: str = ""  # what to do
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        where = f"{self.pointer}: " if self.pointer else ""
        return f"{where}{self.message}{'; ' if self.hint else ''}{self.hint}"


def pointer_to(path: Iterable[str | int]) -> str:
    """The JSON pointer of a path of keys and indexes."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def error_at(pointer: str, message: str, hint: str = "") -> Fault:
    """An error at this place."""
    return Fault(pointer=pointer, message=message, hint=hint)


def value_at(document: Any, path: Iterable[str]) -> Any:
    """The value at a path of keys and indexes; None if the path leads nowhere."""
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    return document


def near_name(word: str, known: Iterable[str], *, likeness: float = 0.55) -> str | None:
    """The known name that was probably meant by a misspelt one. `likeness`: how much of both must be alike, from 0 to
    1, unless they differ in nothing but case, `_` and `-`."""
    import difflib  # noqa: PLC0415  (only for a mistake)

    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=likeness)
    if near:
        return near[0]
    by_shape = {name.replace("_", "").replace("-", "").lower(): name for name in names}
    return by_shape.get(word.replace("_", "").replace("-", "").lower())


_QUOTED_MAX = 40  # characters


def kind_of(value: Any) -> str:
    """The JSON type of a value and, if short, the value: `a string "x"`, `an object`, `nothing`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value!r:.40}"
    if isinstance(value, str):
        return f'the string "{value}"' if len(value) <= _QUOTED_MAX else f"a string of {len(value)} characters"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    return f"a {type(value).__name__}"


def plain_kind_of(value: Any) -> str:
    """The JSON type of a value without the value: `a string`, `a number`."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, (list, tuple)) else "an object" if isinstance(value, dict) else kind_of(value)

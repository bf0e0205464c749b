"""The values in an event: checked to be of the expected kind, and storable by every store. Pure.

Responsible for: reading one field of an event, or saying what was expected and what was found. Must not know: the
kinds of events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

from disbatch_protocol.faults import kind_of

DEPTH_MAX = 90  # levels of nesting: MongoDB stores 100, and the task document itself needs some
_INT64 = range(-(2**63), 2**63)


class NotAnEventError(Exception):
    """The line is not an event; the message says what was expected and what was found."""


class DoubtfulNumberError(Exception):
    """A number may have been an integer beyond 64 bits, of which the reader has made a double."""


def found_at(value: Mapping[str, Any], name: str) -> str:
    """The kind of a field's value, in words."""
    return kind_of(value[name]) if name in value else "none"


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def whole(value: Any) -> int | None:
    """A number without a fraction; shells and Perl sometimes write 3 as 3.0."""
    return int(value) if is_number(value) and value == int(value) else None


def text_at(value: Mapping[str, Any], name: str) -> str | None:
    """A field that is a string, null or missing."""
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise NotAnEventError(f'expected "{name}" to be a string, found {kind_of(text)}')
    return text


def required_text_at(value: Mapping[str, Any], name: str) -> str:
    """A field that is a string."""
    text = text_at(value, name)
    if text is None:
        raise NotAnEventError(f'expected "{name}" to be a string, found {found_at(value, name)}')
    return text


Storable = Callable[[Any, str], Any]  # `storable`, of one or the other kind


def storable(value: Any, where: str) -> Any:
    """The value unchanged. Raises NotAnEventError if a store could not hold it: an integer beyond 64 bits, U+0000 in a
    name, too deep. Raises DoubtfulNumberError if it was read with a double where the line may have such an integer."""
    return _storable(value, where, are_doubles_meant=False)


def storable_exact(value: Any, where: str) -> Any:
    """The same for a value that was read exactly: a double was written as one."""
    return _storable(value, where, are_doubles_meant=True)


def _storable(value: Any, where: str, *, are_doubles_meant: bool) -> Any:
    level: list[Any] = [value]
    for _ in range(DEPTH_MAX):
        level = [inner for one in level for inner in _inner(one, where, are_doubles_meant)]
        if not level:
            return value
    raise NotAnEventError(f"expected at most {DEPTH_MAX} nested levels in {where}, found more")


def _inner(value: Any, where: str, are_doubles_meant: bool) -> Iterable[Any]:
    if isinstance(value, dict):
        if any("\0" in name for name in value):
            raise NotAnEventError(f"expected names without U+0000 in {where}, found one")
        return value.values()
    if isinstance(value, list):
        return value
    if isinstance(value, float):
        if not (are_doubles_meant or -(2.0**63) < value < 2.0**63):
            raise DoubtfulNumberError
    elif isinstance(value, int) and value not in _INT64:
        raise NotAnEventError(f"expected integers of 64 bits in {where}, found {value!s:.40}")
    return ()

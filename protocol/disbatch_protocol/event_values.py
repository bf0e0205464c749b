"""The values in an event: checked to be of the expected kind, and storable by every store. Pure.

Responsible for: reading one field of an event, or saying what was expected and what was found. Must not know: the
kinds of events.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from disbatch_protocol.faults import kind_of

DEPTH_MAX = 90  # levels of nesting: MongoDB stores 100, and the task document itself needs some
_INT64 = range(-(2**63), 2**63)


class NotAnEventError(Exception):
    """The line is not an event; the message says what was expected and what was found."""


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


def storable(value: Any, where: str) -> Any:
    """The value unchanged. Raises if a store could not hold it: a number beyond 64 bits, U+0000 in a name, too deep."""
    level: list[Any] = [value]
    for _ in range(DEPTH_MAX):
        level = [inner for one in level for inner in _inner(one, where)]
        if not level:
            return value
    raise NotAnEventError(f'expected at most {DEPTH_MAX} nested levels in "{where}", found more')


def _inner(value: Any, where: str) -> Iterable[Any]:
    if isinstance(value, dict):
        if any("\0" in name for name in value):
            raise NotAnEventError(f'expected names without U+0000 in "{where}", found one')
        return value.values()
    if isinstance(value, list):
        return value
    if isinstance(value, int) and value not in _INT64:
        raise NotAnEventError(f'expected numbers of 64 bits in "{where}", found {value}')
    return ()

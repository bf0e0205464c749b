"""JSON that reads back exactly as it was written.

Responsible for: the text of a value, and the value of a text. Must not know: which column holds it. Pure.

Rules:
1. Dates are {"$date": milliseconds} and keys of the user that begin with "$" are written with one more, so that every
   value reads back as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from disbatch_host.documents.records import Document
from disbatch_host.errors import StoreRefusedError
from disbatch_host.store.sqlite import moments
from disbatch_protocol.faults import kind_of

_CONTAINERS = (dict, list)


def encode(value: Any) -> str:
    """The JSON text of a value. Raises StoreRefusedError if it has no JSON form."""
    return _encoded_quickly(value) or _encoded_carefully(value)


def decode(text: str) -> Any:
    """The value of a JSON text. Raises ValueError or TypeError if it is not one."""
    value = orjson.loads(text)
    if "$" not in text:
        return value
    return _unescaped(value) if '"$$' in text else _with_dates(value)


def as_object(value: Any) -> Document:
    """The value itself. Raises TypeError if it is not an object."""
    if not isinstance(value, dict):
        raise TypeError(f"expected a JSON object, found {kind_of(value)}")
    return value


def is_same(found: Any, value: Any) -> bool:
    """Whether a value that was read is this one: 10 is 10.0, and neither 1 nor a text is `true`."""
    if isinstance(found, bool) or isinstance(value, bool):
        return found is value
    return bool(found == (list(value) if isinstance(value, tuple) else value))


def _encoded_quickly(value: Any) -> str | None:
    """The same as the careful way, in one call; None if the result does not prove that it is the same: a null may have
    been a number that JSON does not have, and a "$" may need one more."""
    dates = 0

    def write(other: Any) -> Any:
        nonlocal dates
        if isinstance(other, datetime):
            dates += 1
            return {"$date": moments.to_milliseconds(other)}
        raise TypeError

    try:
        text = orjson.dumps(value, default=write, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError:
        return None
    return text.decode() if text.count(b'"$') == dates and b"null" not in text else None


def _encoded_carefully(value: Any) -> str:
    try:
        return orjson.dumps(_escaped(value), option=orjson.OPT_NON_STR_KEYS).decode()
    except RecursionError as error:
        raise StoreRefusedError("a value cannot be stored as JSON: it is nested too deeply") from error
    except (TypeError, orjson.JSONEncodeError) as error:
        raise StoreRefusedError(f"a value cannot be stored as JSON: {error}") from error


def _escaped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {f"${name}" if str(name).startswith("$") else name: _escaped(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(one) for one in value]
    if isinstance(value, datetime):
        return {"$date": moments.to_milliseconds(value)}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124
        raise StoreRefusedError(f"the number {value} has no JSON form")
    return value


def _with_dates(value: Any) -> Any:
    """The value of a text without escaped keys, as nearly all are. It is changed where it stands, for speed."""
    if isinstance(value, dict):
        if _is_date(value):
            return moments.from_milliseconds(value["$date"])
        for name, one in value.items():
            if type(one) in _CONTAINERS:
                value[name] = _with_dates(one)
    elif isinstance(value, list):
        for place, one in enumerate(value):
            if type(one) in _CONTAINERS:
                value[place] = _with_dates(one)
    return value


def _is_date(value: dict[str, Any]) -> bool:
    return len(value) == 1 and isinstance(value.get("$date"), int)


def _unescaped(value: Any) -> Any:
    if isinstance(value, dict):
        if _is_date(value):
            return moments.from_milliseconds(value["$date"])
        return {name[1:] if name.startswith("$$") else name: _unescaped(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_unescaped(one) for one in value]
    return value

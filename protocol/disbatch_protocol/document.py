"""The task document in the form that a plugin gets: one line of JSON (SPEC, section 4).

Responsible for: how each kind of stored value is written. Must not know: any database driver; types that only a
driver knows are written by a function that the caller passes in.
"""

from __future__ import annotations

import base64
import math
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

# Fields of a stored document that a plugin does not get: output and log of earlier attempts, and the node's own mark.
LEFT_OUT = frozenset({"stdout", "stderr", "log", "claim"})
# Fields that a plugin's `set` event cannot change: den-1.0's own, then the host's (SPEC, section 5).
PROTECTED = frozenset(
    {
        "_id", "queue", "ctime", "mtime", "parameters", "stdout", "stderr", "status", "node",
        "claim", "run", "attempts", "log", "progress", "result", "error", "follow_ups", "parent",
        "not_before", "after", "after_any", "awaited", "priority", "unique_key", "expires", "cancel", "retried",
        "secrets", "refused_follow_ups", "batch", "created_by",
    }
)  # fmt: skip
_NAMED_BY_TEXT = ("_id", "queue")  # ids, of whatever type the database uses
_INT64 = range(-(2**63), 2**64)  # the range that is written as JSON numbers

_NO_JSON = (TypeError, ValueError, RecursionError)  # raised for a value that has no JSON form
_DASHES_OF_A_UUID = 4

Other = Callable[[object], object]


def stdin_line(document: Mapping[str, Any], *, other: Other | None = None) -> bytes:
    """The document as one line of JSON with its newline, UTF-8.

    `other` returns the relaxed Extended JSON for a value of a type that JSON lacks, such as a date, bytes or a UUID; it
    raises TypeError for types it does not know. Raises TypeError, naming the field, if nothing can write it.
    """
    return _quick_line(document) or orjson.dumps(plain_document(document, other=other, left_out=LEFT_OUT)) + b"\n"


def parameter_input(parameters: Any, name: str, *, other: Other | None = None) -> bytes:
    """One parameter as its program reads it: the UTF-8 of a string as it is, any other value as a line of JSON, nothing
    where there is none. Raises TypeError as `stdin_line` does."""
    if not isinstance(parameters, Mapping) or name not in parameters:
        return b""
    value = parameters[name]
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return orjson.dumps(to_json(value, other=other, path=f"parameters.{name}")) + b"\n"


def _quick_line(document: Mapping[str, Any]) -> bytes | None:
    """The result of `plain_document` in one fast call, since each task passes here. None if it may differ: a null may
    have been a number that JSON lacks, and a text that looks like a UUID may have been one."""
    dates = 0

    def write_date(value: Any) -> str:
        nonlocal dates
        if not isinstance(value, datetime):
            raise TypeError
        dates += 1
        return rfc3339(value)

    try:
        line = orjson.dumps(
            {
                name: str(value) if name in _NAMED_BY_TEXT else value
                for name, value in document.items()
                if name not in LEFT_OUT
            },
            default=write_date,
            option=orjson.OPT_PASSTHROUGH_DATETIME
            | orjson.OPT_PASSTHROUGH_SUBCLASS
            | orjson.OPT_PASSTHROUGH_DATACLASS
            | orjson.OPT_APPEND_NEWLINE,
        )
    except TypeError:
        return None
    return None if b"null" in line or line.count(b"-") - 2 * dates >= _DASHES_OF_A_UUID else line


def plain_document(
    document: Mapping[str, Any], *, other: Other | None = None, left_out: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """A document as plain JSON values: `_id`, `queue` and the ids of `after` as strings, the rest as in
    `to_json`."""
    chosen = {
        name: str(value) if name in _NAMED_BY_TEXT else _texts(value) if name == "after" else value
        for name, value in document.items()
        if name not in left_out
    }
    return _members(chosen, other, "")


def readable_line(document: Mapping[str, Any], *, other: Other | None = None) -> bytes:
    """The document as one line of JSON without a newline, for readers of many: a field that has no JSON form (it is
    nested too deeply, or holds a type that nobody knows) is null, and `fault` names it. One such document must not
    keep the others from being read."""
    try:
        return orjson.dumps(plain_document(document, other=other))
    except _NO_JSON:
        plain: dict[str, Any] = {}
        faults = [document["fault"]] if isinstance(document.get("fault"), str) else []
        for name, value in document.items():
            try:
                plain |= plain_document({name: value}, other=other)
                orjson.dumps(plain[name])
            except _NO_JSON:
                plain[name] = None
                faults.append(f'the field "{name}" cannot be shown: it is nested too deeply, or of an unknown type')
        return orjson.dumps({**plain, "fault": "; ".join(faults)})


def _texts(ids: Any) -> Any:
    return [str(one) for one in ids] if isinstance(ids, (list, tuple)) else ids


def to_json(value: Any, *, other: Other | None = None, path: str = "") -> Any:
    """Any stored value as a JSON value. Dates become RFC 3339 in UTC with milliseconds; types without a JSON form
    become relaxed Extended JSON."""
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is int:
        return value if value in _INT64 else {"$numberDecimal": str(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$numberDouble": _not_finite(value)}
    if kind is dict or isinstance(value, Mapping):
        return _members(value, other, path)
    if kind in (list, tuple):
        return [to_json(one, other=other, path=f"{path}.{index}") for index, one in enumerate(value)]
    if isinstance(value, datetime):
        return rfc3339(value)
    if kind is bytes:
        return _binary(value, "00")
    if isinstance(value, uuid.UUID):
        return _binary(value.bytes, "04")
    if other is not None:
        try:
            return other(value)
        except TypeError:
            pass  # the caller does not know it either; the message below names the field
    bases: tuple[Callable[[Any], Any], ...] = (int, float, str, list, tuple)
    for base in bases:
        if isinstance(value, base):  # type: ignore[arg-type]  # a driver's own subclass of what JSON has
            return to_json(base(value), other=other, path=path)
    raise TypeError(f"field {path or '(the whole)'} holds a {kind.__name__}, which has no JSON form")


def _members(members: Mapping[Any, Any], other: Other | None, path: str) -> dict[str, Any]:
    """An object's members. Each task passes here, so values that need no change cost no call."""
    plain = {}
    for key, value in members.items():
        name = key if type(key) is str and key.isascii() else _text(str(key))
        kind = type(value)
        if not (
            (kind is str and value.isascii()) or kind is bool or value is None or (kind is int and value in _INT64)
        ):
            value = to_json(value, other=other, path=f"{path}.{name}" if path else name)  # noqa: PLW2901
        plain[name] = value
    return plain


def _text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def rfc3339(moment: datetime) -> str:
    """`2026-04-26T17:59:33.000Z`. A moment without a zone is UTC, as in databases."""
    if moment.tzinfo is UTC:
        return moment.isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _binary(data: bytes, subtype: str) -> dict[str, Any]:
    return {"$binary": {"base64": base64.b64encode(data).decode("ascii"), "subType": subtype}}


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

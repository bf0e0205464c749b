"""The bytes of a `plugin.json` as JSON, read strictly: UTF-8, no NaN, no name twice in one object.

Responsible for: the value, or why it cannot be read, in words. Must not know: which fields a manifest has.
"""

from __future__ import annotations

from typing import Any

import orjson

from disbatch_protocol.faults import Fault

_NESTING_MAX = 100  # levels; a manifest has six


def parse_json(data: bytes) -> tuple[Any, list[Fault]]:
    """The value and its faults; None if it cannot be read at all."""
    if data.startswith(b"\xef\xbb\xbf"):
        return None, [_fault("expected JSON, found a byte order mark", "save it as UTF-8 without one")]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None, [_fault("expected UTF-8, found UTF-16", _recode("UTF-16"))]
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"expected UTF-8, found byte 0x{data[error.start]:02x} at offset {error.start}"
        return None, [_fault(message, _recode("ISO-8859-1"))]
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as error:
        near = _line_at(data, error.pos)
        hint = f"look at line {error.lineno}, column {error.colno}{near}"
        return None, [_fault(f"not valid JSON: {error.msg}", hint)]
    duplicates: list[str] = []
    document = _with_duplicates(data.decode("utf-8"), duplicates)
    if document is _TOO_DEEP:
        return None, [_fault(f"nested deeper than {_NESTING_MAX} levels")]
    faults = [
        _fault(f'the name "{name}" occurs twice in one object', "remove one of them; readers differ in which counts")
        for name in sorted(set(duplicates))
    ]
    return document, faults


def _recode(encoding: str) -> str:
    return f"save it as UTF-8, or convert it: iconv -f {encoding} -t UTF-8 plugin.json > new.json"


_TOO_DEEP = object()


def _with_duplicates(text: str, duplicates: list[str]) -> Any:
    import json  # noqa: PLC0415  (orjson is faster but cannot tell duplicates)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names: set[str] = set()
        for name, _ in items:
            if name in names:
                duplicates.append(name)
            names.add(name)
        return dict(items)

    try:
        document = json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        return _TOO_DEEP
    return document if _depth(document) <= _NESTING_MAX else _TOO_DEEP


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            one
            for value in level
            for one in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
        ]
    return depth


def _line_at(data: bytes, position: int) -> str:
    start = data.rfind(b"\n", 0, position) + 1
    line = data[start : start + 60].split(b"\n")[0].decode("utf-8", "replace").strip()
    return f": {line}" if line else ""


def _fault(message: str, hint: str = "") -> Fault:
    return Fault(pointer="", message=message, hint=hint)

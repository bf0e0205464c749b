"""Conditions on the content of tasks, as people write them: `user=matt`, `result.size!=0`, `size>=100`,
`.error.code=timeout`.

Responsible for: reading such a text. Must not know: what a condition means (`documents.conditions`), terminals.

Rules:
1. A bare path leads into the parameters, as does `parameters.user`; `result.size` into the result; `.field` begins at
   the task itself, for every other field.
2. A value is compared as text, and as what it is in JSON: `n=5` is met by the text 5 and by the number.
3. A backslash takes away the meaning of the character after it: `a\\.b=1` is about the key `a.b`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import orjson

from disbatch_host.documents.conditions import Condition, Order, Scalar, is_date
from disbatch_host.errors import FieldError

_PARAMETERS, _RESULT = "parameters", "result"
_INT64 = range(-(2**63), 2**63)
_PATH_MAX = 50  # parts; documents are never nested so deeply
_SHOWN = 60


def conditions_of(given: str | Sequence[str]) -> tuple[Condition, ...]:
    """The conditions that texts stand for. Raises FieldError."""
    return tuple(map(condition_of, [given] if isinstance(given, str) else given))


def condition_of(text: str) -> Condition:
    """The condition that a text stands for. Raises FieldError."""
    parts, rest = _path_and_rest(text)
    if rest is None:
        raise FieldError(
            "where", f"expected PATH=VALUE, or != > >= < <= instead of =, such as user=matt, found {_shown(text)}"
        )
    if rest[0] in "<>":
        order = Order(rest[:2] if rest[1:2] == "=" else rest[0])
        return Condition(_from_document(parts, text), (_comparable(rest[len(order) :], text),), order=order)
    negated = rest.startswith("!")
    value = rest[2:] if negated else rest[1:]
    return Condition(_from_document(parts, text), _readings(value), negated=negated)


def path_of(text: str) -> tuple[str, ...]:
    """The path from a task's document that a text stands for (rule 1). Raises FieldError."""
    parts, rest = _path_and_rest(text)
    if rest is not None:
        raise FieldError("path", f"expected a path such as user or result.size, found {_shown(text)}")
    return _from_document(parts, text)


def _from_document(parts: list[str], text: str) -> tuple[str, ...]:
    if parts == [""]:
        raise FieldError("where", f"expected a path such as user or result.size, found {_shown(text)}")
    if len(parts) > _PATH_MAX:
        raise FieldError("where", f"expected a path of at most {_PATH_MAX} parts, found {len(parts)}")
    if parts[0] == "":  # .field
        if not parts[1]:
            raise FieldError("where", f"expected a field behind the first dot, found {_shown(text)}")
        return tuple(parts[1:])
    is_from_document = parts[0] in (_PARAMETERS, _RESULT) and len(parts) > 1
    return tuple(parts) if is_from_document else (_PARAMETERS, *parts)


def _path_and_rest(text: str) -> tuple[list[str], str | None]:
    """The parts of the path at the beginning of a text, and the rest from `=`, `!=`, `<` or `>`; None if there is no
    such."""
    parts = [""]
    position = 0
    while position < len(text):
        character = text[position]
        if character in "=<>" or text.startswith("!=", position):
            return parts, text[position:]
        if character == "\\" and position + 1 < len(text):
            position += 1
            parts[-1] += text[position]
        elif character == ".":
            parts.append("")
        else:
            parts[-1] += character
        position += 1
    return parts, None


def _readings(text: str) -> tuple[Scalar, ...]:
    """The text, and the scalar that it is in JSON, if it is one (rule 2)."""
    try:
        value = orjson.loads(text)
    except ValueError:
        return (text,)
    if isinstance(value, bool) or value is None:
        return text, value
    if isinstance(value, int):
        return (text, value) if value in _INT64 else (text,)
    return (text, value) if isinstance(value, float) and math.isfinite(value) else (text,)


def _comparable(value: str, text: str) -> Scalar:
    """What less and more are there for."""
    number = _readings(value)[-1]
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        return number
    if is_date(value):
        return value
    raise FieldError("where", f"expected a number or a date such as 2026-11-30 behind < or >, found {_shown(text)}")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"

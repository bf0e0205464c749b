"""The values of a task's own parameters in a message about it: they are what it is about, and not its cause. Pure.

Responsible for: which values are looked for, and their places in a line. Must not know: groups (`groups`), where
parameters come from.

Rules:
1. SPEC.md, "Groups of failures", has each step; the vectors of groups have cases.
2. Of large parameters only the first `LOOKED_AT` elements and the first `VALUES_MAX` texts count: the time has a bound.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from disbatch_protocol.faults import pointer_to

LOOKED_AT = 1000  # elements of the parameters
VALUES_MAX = 100  # texts among them
LENGTH_MIN, LENGTH_MIN_WITH_DIGIT, LENGTH_MAX = 3, 2, 200  # characters of such a text
_DEPTH_MAX = 20
_NAME_MAX = 40
_SECRET, _NAMELESS = "secret", "value"
_PART = "x"  # stands for a value within a path or address
_HAS_DIGIT = re.compile("[0-9]")
_NO_NAME = re.compile("[^A-Za-z]+")
_HEX = re.compile("[A-Fa-f]{8,}")  # a name like that would be taken for a number
# What paths and addresses may hold anyway: within one, such a value is taken with the rest of it.
_PLAIN = re.compile(r"[A-Za-z0-9_./\\@:~+%-]*")


def values_of(parameters: Any, secrets: Collection[str] = ()) -> dict[str, str]:
    """The texts that may be in a message, with the name of each. `secrets`: JSON pointers into the parameters; what is
    there has another name than the parameter's own."""
    found: dict[str, str] = {}
    for name, text in islice(_elements(parameters, _NAMELESS, "", frozenset(secrets), 0), LOOKED_AT):
        if text is None or not _may_be_a_name(text):
            continue
        if text not in found and len(found) == VALUES_MAX:
            break
        if text not in found or name == _SECRET:
            found[text] = name
    return found


def with_names(line: str, values: Mapping[str, str]) -> str:
    """The line with the name of each of these values, in `<` and `>`, where it is as a whole word. Of several at one
    place the longest counts. A list of values with one name is as one of them."""
    if not values:
        return line
    longest_first = sorted(values, key=len, reverse=True)
    whole = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])")
    named = whole.sub(lambda one: _replacement(one, values[one[0]]), line)
    names = "|".join(sorted(set(values.values())))
    return re.sub(rf"(<(?:{names})>)(?:(?:[,;:]? ?|,? (?:and|or) )\1){{1,500}}", r"\1", named)


def _replacement(found: re.Match[str], name: str) -> str:
    line, start, end = found.string, found.start(), found.end()
    is_part = (start > 0 and line[start - 1] in "/\\@.") or (
        line[end : end + 1] in tuple("/\\@") or (line[end : end + 1] == "." and line[end + 1 : end + 2].isalnum())
    )
    if not is_part:
        return f"<{name}>"
    return found[0] if _PLAIN.fullmatch(found[0]) else _PART


def _may_be_a_name(text: str) -> bool:
    shortest = LENGTH_MIN_WITH_DIGIT if _HAS_DIGIT.search(text[:LENGTH_MAX]) else LENGTH_MIN
    return shortest <= len(text) <= LENGTH_MAX


def _elements(value: Any, name: str, at: str, secrets: frozenset[str], depth: int) -> Iterator[tuple[str, str | None]]:
    """Name and text of each element in its order; None for what is no text. Elements of a list have the list's name."""
    if name != _SECRET and at in secrets:
        name = _SECRET
    yield name, value if isinstance(value, str) else None
    if depth == _DEPTH_MAX:
        return
    if isinstance(value, Mapping):
        for key, one in value.items():
            inner = name if name == _SECRET else _name_of(str(key))
            yield from _elements(one, inner, at + pointer_to([str(key)]) if secrets else at, secrets, depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            yield from _elements(one, name, f"{at}/{index}", secrets, depth + 1)


def _name_of(key: str) -> str:
    """As it can be in a group: letters of ASCII, so that no later step finds anything in it."""
    name = _NO_NAME.sub("_", key[: 2 * _NAME_MAX]).strip("_")[:_NAME_MAX]
    return name if name and not _HEX.search(name) else _NAMELESS

"""Which column is probably which parameter.

Responsible for: a first answer that a person looks at. Must not know: where it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from disbatch_protocol.faults import near_name

ADDED = ("line", "reason")  # the columns at the end of a table of rows that do not fit
_NEAR = 0.7  # how alike two names have to be that a row is imported by


def guessed(columns: Sequence[str], names: Mapping[str, str], *, takes_others: bool) -> dict[str, str]:
    """A parameter for each column that seems to be one. `names`: the parameters, inner ones with dots, and what people
    call them; `takes_others`: there may be others, so that a column that is like none of these is one of its own
    name."""
    known = [one for one in dict.fromkeys(columns[: -len(ADDED)] if has_added(columns) else columns) if one]
    found: dict[str, str] = {one: one for one in known if one in names}
    for name, title in names.items():
        if name not in found.values() and not _is_part(name, found):
            spare = [one for one in known if one not in found]
            by_title = (one for one in spare if _letters(one) and _letters(one) == _letters(title))
            column = like(name, spare, likeness=_NEAR) or next(by_title, None)
            if column is not None:
                found[column] = name
    for one in known if takes_others else ():
        if one not in found and _can_be(one, found):
            found[one] = one
    return {one: found[one] for one in known if one in found}


def has_added(columns: Sequence[str]) -> bool:
    """Whether it is a table of rows that did not fit, with why behind each."""
    return tuple(columns[-len(ADDED) :]) == ADDED and len(columns) > len(ADDED)


def like(name: str, columns: Sequence[str], *, likeness: float = 0.55) -> str | None:
    """The column that is probably meant for a parameter: the same but for its spelling, or one word of it."""
    wanted = _letters(name)
    for column in columns:
        if wanted and _letters(column) == wanted:
            return column
    for column in columns:
        if wanted in _words(column) or _letters(column) in _words(name):
            return column
    return near_name(name, columns, likeness=likeness)


def _words(text: str) -> set[str]:
    return {_letters(word) for word in re.split(r"[\W_]+", text)} - {""}


def _letters(text: str) -> str:
    return "".join(one for one in text.casefold() if one.isalnum())


def _can_be(column: str, found: Mapping[str, str]) -> bool:
    """Whether its name can be that of a parameter beside those that are found."""
    return all(column.split(".")) and column not in found.values() and not _is_part(column, found)


def _is_part(name: str, found: Mapping[str, str]) -> bool:
    """Whether it is inside one that is found, or holds one."""
    return any(one.startswith(f"{name}.") or name.startswith(f"{one}.") for one in found.values())

"""Conditions on the fields of a task, and what a look for tasks brings: a page.

Responsible for: what a condition means (`meets`), which both stores keep to. Must not know: how people write one, how a
store evaluates it. Pure.

Rules:
1. A path leads through objects by their keys and through lists by numbers, or through all their items: `lines.0.sku` is
   the first one's, `lines.sku` that of any. A list at its end is met by any of its items as well.
2. Values are compared with their types: 1 is 1.0, but neither true nor "1". A missing value is equal to nothing, not
   even to null. So a negated condition is met where there is no value.
3. Less and more are there for numbers, which are compared with numbers only, and for dates: a text that begins as
   2026-11-30 does is compared, as text, with others that do.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from disbatch_host.documents.records import Task

PAGE_SECONDS = 2.0  # what a look for one page may take

Scalar = str | int | float | bool | None

DATE = "^[0-9]{4}-[0-9]{2}-[0-9]{2}"  # how the text of a date begins (rule 3)
_DATE = re.compile(DATE)
_INDEX = re.compile("0|[1-9][0-9]{0,8}")


class Order(StrEnum):
    """How a value is to be, compared with another one (rule 3)."""

    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="


@dataclass(frozen=True, slots=True)
class Condition:
    """The value at a path of a task's document is one of some; `negated`: none of these. With an `order`, it is less or
    more than the only one of `values`, a number or the text of a date."""

    path: tuple[str, ...]  # from the document: ("parameters", "user")
    values: tuple[Scalar, ...] = field(repr=False)
    _: KW_ONLY
    negated: bool = False
    order: Order | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the tasks that a filter selects, in an order. Cursors are a store's own text, and stay valid when tasks
    are deleted or created."""

    tasks: tuple[Task, ...]
    next: str | None = None  # where to go on in this order; None: there is nothing more
    previous: str | None = None  # for the page before; None: this is the first, or it is empty
    looked_at: int  # how many tasks were looked at for it
    is_cut: bool = False  # the time was over first: tasks beyond `looked_to` were not looked at
    looked_to: datetime | None = None  # of a cut one, when the last task that was looked at was created


def meets(
    value: Any, path: Sequence[str], values: Sequence[Scalar], *, negated: bool = False, order: str | None = None
) -> bool:
    """Whether what is at this path of a value meets the condition."""
    if order is not None:
        return any(_is_in_order(found, order, values[0]) for found in values_at(value, path))
    return any(_is_one_of(found, values) for found in values_at(value, path)) is not negated


def values_at(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """All that a path leads to (rule 1): a list at its end, then its items."""
    if not path:
        yield value
        if isinstance(value, list):
            yield from value
        return
    name, rest = path[0], path[1:]
    if isinstance(value, dict):
        if name in value:
            yield from values_at(value[name], rest)
    elif isinstance(value, list):
        if (number := index_of(name)) is not None and number < len(value):
            yield from values_at(value[number], rest)
        for item in value:
            if isinstance(item, dict) and name in item:
                yield from values_at(item[name], rest)


def index_of(name: str) -> int | None:
    """The number of an item of a list, if a part of a path is one."""
    return int(name) if _INDEX.fullmatch(name) else None


def _is_one_of(found: Any, values: Sequence[Scalar]) -> bool:
    kind = _kind(found)
    return kind is not None and any(_kind(one) is kind and found == one for one in values)


def is_date(text: str) -> bool:
    """Whether a text is compared as a date (rule 3)."""
    return _DATE.match(text) is not None


def _is_in_order(found: Any, order: str, than: Any) -> bool:
    kind = _kind(found)
    if kind is not _kind(than) or not (kind is float or (kind is str and is_date(found) and is_date(than))):
        return False
    return _ORDERS[order](found, than)


_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    Order.LESS: operator.lt, Order.AT_MOST: operator.le, Order.MORE: operator.gt, Order.AT_LEAST: operator.ge,
}  # fmt: skip


def _kind(value: Any) -> type | None:
    """What a value may be equal to: values of the same kind."""
    if value is None:
        return type(None)
    if isinstance(value, bool):
        return bool
    if isinstance(value, (int, float)):
        return float
    return str if isinstance(value, str) else None

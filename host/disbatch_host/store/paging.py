"""Pages of tasks, alike in both stores: how far a look goes, and where the next one goes on.

Responsible for: the steps of a look, its budget, the directions of a cursor. Must not know: any driver, what a position
is: a store has a `Source` for each look, and writes positions as text.

Rules:
1. A page is found by walking along candidates, which an index has in order, step by step. So it costs the same wherever
   it is, and a look that finds nothing can say how far it got.
2. A cursor is a direction and a position: tasks after it, or before it, in the order of the page.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from disbatch_host.documents.conditions import Page
from disbatch_host.documents.records import Task
from disbatch_host.errors import FieldError

Position = Any
Found = tuple[Position, Task]

_AFTER, _BEFORE = "a", "b"
_STEP_FIRST, _STEP_MAX = 64, 20_000  # candidates looked at in one step; the first ones may be large
_STEP_SECONDS = 0.1  # a step that took less than this makes the next one larger
_CURSOR_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step of a look has found."""

    found: list[Found]
    looked_at: int  # how many candidates
    last: Position  # up to where; None: there was nothing
    is_end: bool  # there is nothing beyond it


class Source(Protocol):
    """The candidates of one look, in the order in which it walks."""

    def step(self, size: int, count: int) -> Step:
        """Look at about the next `size` candidates, for the first `count` that match. `last` may be where the last one
        that was found is."""

    def created(self, position: Position) -> datetime | None:
        """When the task at a position was created, or one close by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look for a page."""

    limit: int
    is_selective: bool  # only some of the candidates match
    budget_seconds: float
    cursor: str | None
    write: Callable[[Position], str]

    def page(self, source: Source) -> Page:
        """The page. `source` walks against the order of the page where `is_backward`."""
        is_back = is_backward(self.cursor)
        found, looked_at, last, is_cut = self._walk(source)
        has_more = len(found) > self.limit
        found = found[: self.limit]
        if has_more:
            last = found[-1][0]
        looked_to = source.created(last) if is_cut and not has_more else None
        beyond = self._cursor(_BEFORE if is_back else _AFTER, last) if has_more or is_cut else None
        behind = None
        if self.cursor is not None and found:
            behind = self._cursor(_AFTER if is_back else _BEFORE, found[0][0])
        tasks = tuple(task for _, task in (reversed(found) if is_back else found))
        return Page(
            tasks=tasks,
            next=behind if is_back else beyond,
            previous=beyond if is_back else behind,
            looked_at=looked_at,
            is_cut=is_cut and not has_more and len(found) < self.limit,
            looked_to=looked_to,
        )

    def _walk(self, source: Source) -> tuple[list[Found], int, Position, bool]:
        """What was found, one more than the limit if there are so many; how many candidates were looked at, and the
        last of them; and whether the time was over before the end."""
        deadline = time.monotonic() + self.budget_seconds
        found: list[Found] = []
        looked_at, last = 0, None
        step = _STEP_FIRST if self.is_selective else min(self.limit + 1, _STEP_MAX)
        while True:
            began = time.monotonic()
            made = source.step(step, self.limit + 1 - len(found))
            found += made.found
            looked_at += made.looked_at
            last = made.last if made.last is not None else last
            now = time.monotonic()
            if made.is_end or len(found) > self.limit:
                return found, looked_at, last, False
            if now >= deadline:
                return found, looked_at, last, True
            if now - began < _STEP_SECONDS:
                step = min(2 * step, _STEP_MAX)

    def _cursor(self, direction: str, position: Position) -> str:
        return f"{direction}{self.write(position)}"


def is_backward(cursor: str | None) -> bool:
    """Whether a cursor leads to the page before."""
    return cursor is not None and cursor.startswith(_BEFORE)


def position_of(cursor: str | None, read: Callable[[str], Position]) -> Position | None:
    """The position that a cursor begins at. `read` raises ValueError for a text that it did not write. Raises
    FieldError."""
    if cursor is None:
        return None
    try:
        if cursor[:1] not in (_AFTER, _BEFORE):
            raise ValueError
        return read(cursor[1:])
    except ValueError:
        shown = cursor if len(cursor) <= _CURSOR_SHOWN else f"{cursor[:_CURSOR_SHOWN]}…"
        reason = f"expected one that a page of this store came with, found {shown!r}"
        raise FieldError("cursor", reason) from None

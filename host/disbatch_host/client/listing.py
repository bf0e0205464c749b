"""A list of tasks as people read it: some pages, or the first of those in another order.

Responsible for: how much is read for a list. Must not know: terminals, how tasks are shown.

Rules:
1. A store has tasks in the order of creation only. Another order is that of the newest `SORTED_MAX` that match, and the
   caller says so.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from disbatch_host.client.columns import Column, Document
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.conditions import PAGE_SECONDS, Page
from disbatch_host.documents.records import Task
from disbatch_host.store.contract import Store

SORTED_MAX = 10_000  # tasks among which a list in another order is found
_AT_ONCE = 500  # tasks that are in memory together with their parameters

Shown = Callable[[Task], Document]


def pages(
    store: Store,
    which: TaskFilter,
    *,
    limit: int,
    newest_first: bool = True,
    cursor: str | None = None,
    budget_seconds: float = PAGE_SECONDS,
) -> Iterator[Page]:
    """The pages of a list of at most `limit` tasks. Ends early with a page that was cut."""
    left = limit
    while True:
        page = store.find_page(
            which, limit=min(left, _AT_ONCE), newest_first=newest_first, cursor=cursor, budget_seconds=budget_seconds
        )
        yield page
        left -= len(page.tasks)
        cursor = page.next
        if left <= 0 or cursor is None or page.is_cut:
            return


def joined(found: Iterator[Page]) -> Page:
    """Pages that follow each other as one."""
    first = whole = next(found)
    tasks = [*first.tasks]
    looked_at = first.looked_at
    for whole in found:
        tasks += whole.tasks
        looked_at += whole.looked_at
    return replace(whole, tasks=tuple(tasks), previous=first.previous, looked_at=looked_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """The first tasks in the order of a column."""

    tasks: tuple[Task, ...]
    among: int  # so many tasks were read
    is_all: bool  # these are all that match


def sorted_tasks(
    store: Store,
    which: TaskFilter,
    shown: Shown,
    column: Column,
    now: datetime,
    *,
    descending: bool,
    limit: int,
    cursor: str | None = None,
) -> Sorted:
    """The first `limit` in the order of a column, among the newest `SORTED_MAX` that match; tasks without a value come
    last. `shown`: their documents, so that nothing secret decides the order."""
    among, is_all = 0, True

    def read() -> Iterator[tuple[Any, int, Task]]:
        nonlocal among, is_all
        for page in pages(store, which, limit=SORTED_MAX, cursor=cursor):
            is_all = page.next is None
            for task in page.tasks:
                among += 1
                yield _rank(column.value(task, shown(task), now), descending=descending), among, task

    if descending:  # of equals the newest comes first all the same
        best = heapq.nlargest(limit, ((rank, -number, task) for rank, number, task in read()), key=lambda one: one[:2])
    else:
        best = heapq.nsmallest(limit, read(), key=lambda one: one[:2])
    return Sorted(tasks=tuple(task for _, _, task in best), among=among, is_all=is_all)


def _rank(value: Any, *, descending: bool) -> tuple[int, int, Any]:
    """What values of any kinds are compared by: one kind after the other, and no value last."""
    last = 1 if descending else 0
    if value is None:
        return 1 - last, 0, 0
    if isinstance(value, (int, float)):
        return last, 0, value
    if isinstance(value, datetime):
        return last, 1, value.timestamp()
    return last, 2, str(value)

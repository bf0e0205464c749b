"""What an action on many tasks would do, found without doing it, in bounded time.

Responsible for: counts by status, queue and error, some of the tasks, and those that would be refused. Must not know:
what the actions are.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from disbatch_host.client.control import BATCH, Outcome, holder_of_key
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Task
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status

_SECONDS = 2.0  # for looking at the tasks
_COUNT_SECONDS = 0.5  # for each count
_KEYS_MAX = 500  # unique keys whose holders are looked for
_ERRORS_MAX = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What it would do to the tasks as they were at `until`."""

    until: datetime
    matching: int  # tasks that the selection names
    eligible: int  # tasks that would be changed
    is_exact: bool  # else there are at least so many
    others: Mapping[str, int]  # why the rest would not
    samples: tuple[Task, ...]  # the newest that would be changed
    by_status: Mapping[str, int]
    by_queue: Mapping[str, int]  # of the newest `looked_at` that are meant
    by_error: Mapping[str, int]  # likewise
    looked_at: int


def preview(
    store: Store,
    matching: TaskFilter,
    meant: TaskFilter,
    until: datetime,
    *,
    samples: int,
    keys_count: bool,
    why_not: Callable[[int], str],
) -> Preview:
    """`meant`: those of `matching` that the action is for. `keys_count`: a task whose unique key another has is
    refused."""
    looked = _look(store, meant, keys_count=keys_count)
    by_status, is_counted = _by_status(store, matching)
    others: Counter[str] = Counter()
    for status, count in by_status.items():
        if not meant.covers(status) and count:
            others[why_not(status)] += count
    if looked.is_whole:
        total = looked.count
    else:
        counted = store.count_within(meant, budget_seconds=_COUNT_SECONDS)
        total, is_counted = max(counted.value, looked.count), is_counted and counted.is_exact
    if looked.held:
        others[str(Outcome.UNIQUE_KEY)] += looked.held
    return Preview(
        until=until,
        matching=total + sum(count for status, count in by_status.items() if not meant.covers(status)),
        eligible=total - looked.held,
        is_exact=is_counted,
        others=dict(others),
        samples=tuple(store.find_tasks(meant, limit=samples, newest_first=True, with_output=False)),
        by_status={statuses.name(status): count for status, count in sorted(by_status.items()) if count},
        by_queue=dict(looked.by_queue.most_common()),
        by_error=dict(looked.by_error.most_common(_ERRORS_MAX)),
        looked_at=looked.count,
    )


def _by_status(store: Store, which: TaskFilter) -> tuple[dict[int, int], bool]:
    """How many have which status, all failures of a plugin's own under 2; and whether that is exact."""
    found: dict[int, int] = {}
    is_exact = True
    for status in Status:
        if which.covers(status):
            has_others = status == Status.FAILED and (which.statuses is None or which.or_failed)
            one = replace(which, statuses=frozenset({int(status)}), or_failed=has_others)
            counted = store.count_within(one, budget_seconds=_COUNT_SECONDS)
            found[int(status)] = counted.value
            is_exact = is_exact and counted.is_exact
    return found, is_exact


@dataclass(slots=True, kw_only=True)
class _Looked:
    by_queue: Counter[str]
    by_error: Counter[str]
    count: int = 0
    held: int = 0  # whose unique key another task has
    is_whole: bool = False


def _look(store: Store, meant: TaskFilter, *, keys_count: bool) -> _Looked:
    """Go through those that are meant, the newest first, as long as there is time."""
    found = _Looked(by_queue=Counter(), by_error=Counter())
    keys: Counter[tuple[Any, str]] = Counter()
    cursor, ends = None, time.monotonic() + _SECONDS
    while True:
        page = store.find_page(
            meant, limit=BATCH, newest_first=True, cursor=cursor, budget_seconds=_SECONDS, with_parameters=False
        )
        for task in page.tasks:
            _count(found, task)
            key = task.document.get("unique_key")
            if keys_count and isinstance(key, str) and len(keys) < _KEYS_MAX:
                keys[task.queue, key] += 1
                # The first of them gets it, unless somebody has it now.
                found.held += keys[task.queue, key] > 1 or holder_of_key(store, task) is not None
        cursor = page.next
        if cursor is None:
            found.is_whole = True
            return found
        if time.monotonic() > ends:
            return found


def _count(found: _Looked, task: Task) -> None:
    found.count += 1
    found.by_queue[str(task.queue)] += 1
    error = task.document.get("error")
    if isinstance(error, Mapping):
        found.by_error[str(error.get("code") or "unknown")] += 1

"""Why tasks failed: grouped by cause, the most frequent first.

Responsible for: the groups that people see, everywhere the same, from what the store counts. Must not know: how they
are shown.

Rules:
1. A cause is `error.group`, as the host that saw the failure wrote it. Tasks of earlier versions and other programs
   have none; they are grouped by `error.code`, and have no key.
2. A group has what was counted; its text and message are those of its newest tasks.
3. Groups may be told apart by version, node and queue as well, or by these alone. `only` says what the tasks of such a
   group have; without the cause it has no tasks that expired, which no node ran.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from disbatch_host import suggested
from disbatch_host.client.history import code_of_error
from disbatch_host.decide.words import error_in_short
from disbatch_host.documents.causes import group_in
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.conditions import Condition
from disbatch_host.documents.failure_counts import FailureCount
from disbatch_host.documents.records import NOBODY, QueueId, Task, TaskId
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.document import rfc3339
from disbatch_protocol.status import FAILURES, Status

CAUSE = "error"
BY = (CAUSE, "version", "node", "queue")  # what groups can be told apart by
GROUPS_MAX = 1000  # groups that are told apart; the others are counted as one
SECONDS = 5.0  # for the count of all failures
TASKS_MAX = 3  # of each group that are named
_NEWEST_SECONDS = 0.5  # for finding tasks of one group
_PLAIN_MAX = 500  # newest failures without a group that are read for examples of their codes
_PLACES_MAX = 25  # pairs of queue and status searched for these, those with the most first

Places = Mapping[tuple[QueueId, int], int]  # failed tasks per pair of queue and status


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureFacts:
    """One reason why tasks failed."""

    code: str
    count: int  # failed tasks, terminated ones among them
    queues: tuple[str, ...]  # the most frequent first
    message: str  # of the newest one, on one line
    text: str = ""  # of its group; the code for tasks without one
    key: str | None = None  # of its group
    orphaned: int = 0  # nobody knows whether these have failed
    expired: int = 0  # not started in time
    first: datetime | None = None  # when the earliest of them ended
    last: datetime | None = None
    versions: tuple[str, ...] = ()  # of the plugin
    nodes: tuple[str, ...] = ()
    tasks: tuple[TaskId, ...] = ()  # up to three, the newest first
    only: Mapping[str, str | None] = field(default_factory=dict)  # of `BY`, without the cause; None: they have none
    versions_of_others: tuple[str, ...] = ()  # all that are known, for a group whose tasks have no version

    @property
    def example(self) -> str:
        """The id of the newest task; empty if none is there any more."""
        return str(self.tasks[0]) if self.tasks else ""

    @property
    def total(self) -> int:
        return self.count + self.orphaned + self.expired

    @property
    def cause(self) -> str:
        """What its tasks have in common, without the code; the newest message where it is not known."""
        return (
            self.text.removeprefix(f"{self.code}: ")
            if self.key is not None and self.text != self.code
            else self.message
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "text": self.text,
            "code": self.code,
            "count": self.count,
            "orphaned": self.orphaned,
            "expired": self.expired,
            "first": self.first,
            "last": self.last,
            "queues": list(self.queues),
            "versions": list(self.versions),
            "nodes": list(self.nodes),
            "message": self.message,
            "tasks": [str(one) for one in self.tasks],
            **({"only": dict(self.only)} if self.only else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Why tasks failed, the most frequent reason first."""

    reasons: Sequence[FailureFacts] = ()
    total: int = 0  # failed tasks, in groups that are not among `reasons` as well
    orphaned: int = 0
    expired: int = 0
    other_groups: int = 0  # that are not among `reasons`
    other_total: int = 0  # tasks of these
    is_complete: bool = True  # False: there was no time to count all of them


def find_failures(
    store: Store,
    which: TaskFilter | None = None,
    *,
    limit: int = GROUPS_MAX,
    seconds: float = SECONDS,
    by: Sequence[str] = (CAUSE,),
) -> Failures:
    """Why the tasks of a selection failed, in about so many seconds; the `limit` most frequent reasons. `by`: some of
    `BY`. Raises StoreError."""
    which = which or TaskFilter()
    deadline = time.monotonic() + seconds
    found = store.count_failures(which, seconds=seconds)
    groups = _groups_of(found.rows, by)
    versions = tuple(sorted({row.version for row in found.rows if row.version}))
    ordered = sorted(
        groups.values(), key=lambda one: (-one.total, one.key or "", one.code, *map(str, one.only.values()))
    )
    kept = ordered[: min(limit, GROUPS_MAX)]
    plain = _Plain(store, which, [row for row in found.rows if row.key is None])
    reasons: list[FailureFacts] = []
    for one in kept:
        if reasons and time.monotonic() > deadline + seconds:
            break
        is_plain = one.key is None and CAUSE in by
        tasks = plain.of(one.code, one.only) if is_plain else _newest(store, which, one, versions)
        reasons.append(one.facts(tasks, versions))
    others = ordered[len(reasons) :]
    return Failures(
        reasons=sorted(reasons, key=lambda one: (-one.total, one.code, one.text)),
        total=sum(one.failed for one in ordered),
        orphaned=sum(one.orphaned for one in ordered),
        expired=sum(one.expired for one in ordered),
        other_groups=len(others),
        other_total=sum(one.total for one in others),
        is_complete=found.is_complete,
    )


def places_of(by_status: Mapping[QueueId, Mapping[int, int]]) -> Places:
    """Where failed tasks are, terminated and orphaned ones among them."""
    return {
        (queue_id, status): count
        for queue_id, counts in by_status.items()
        for status, count in counts.items()
        if count and (statuses.is_failed(status) or status in FAILURES)
    }


def retry_command(reason: FailureFacts, which: TaskFilter) -> str:
    """The command that runs just these tasks again, as somebody types it in a shell. Of a batch it is `batch retry`,
    which can have the batch tell once more that it is done."""
    if which.batch is not None and which == TaskFilter(batch=which.batch) and (reason.key or not reason.orphaned):
        cause = ["--error", reason.code] if reason.key is None else ["--failure", reason.key]
        return suggested.typed("batch retry", which.batch, *cause)
    if reason.key is not None:
        words = ["--failure", reason.key]
    else:
        words = ["--error", reason.code, "--status", "failed,orphaned" if reason.orphaned else "failed"]
    queue = which.queue if which.queue is not None else reason.queues[0] if len(reason.queues) == 1 else None
    given = {
        "--queue": queue,
        "--batch": which.batch,
        "--class": which.class_name,
        "--version": which.version,
        "--node": which.node,
        "--ended-since": None if which.changed_since is None else rfc3339(which.changed_since),
    }
    for option, value in given.items():
        words += [] if value is None else [option, str(value)]
    return suggested.typed("task retry", *words)


@dataclass(slots=True)
class _Group:
    """What the rows of one group come to."""

    key: str | None
    code: str
    only: Mapping[str, str | None]
    has_cause: bool = True
    failed: int = 0
    orphaned: int = 0
    expired: int = 0
    first: datetime | None = None
    last: datetime | None = None
    queues: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    nodes: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.failed + self.orphaned + self.expired

    def add(self, row: FailureCount) -> None:
        if row.status == Status.ORPHANED:
            self.orphaned += row.count
        elif row.status == Status.CANCELLED:
            self.expired += row.count
        else:
            self.failed += row.count
        self.first = min((one for one in (self.first, row.first) if one is not None), default=None)
        self.last = max((one for one in (self.last, row.last) if one is not None), default=None)
        self.queues[str(row.queue)] += row.count
        if row.version:
            self.versions[row.version] += row.count
        if row.node is not None:
            self.nodes[row.node] += row.count

    def facts(self, tasks: Sequence[Task], versions: tuple[str, ...]) -> FailureFacts:
        newest = tasks[0] if tasks else None
        group = None if newest is None else group_in(newest.document)
        if not self.has_cause:
            code, group = "", None
        else:
            code = self.code if newest is None else code_of_error(newest)
        return FailureFacts(
            code=code,
            count=self.failed,
            queues=_by_count(self.queues),
            message="" if newest is None else error_in_short(newest.document),
            text=code if group is None else group[0],
            key=self.key,
            orphaned=self.orphaned,
            expired=self.expired,
            first=self.first,
            last=self.last,
            versions=_by_count(self.versions),
            nodes=_by_count(self.nodes),
            tasks=tuple(one.id for one in tasks[:TASKS_MAX]),
            only=self.only,
            versions_of_others=versions if self.only.get("version", "") is None else (),
        )


def _by_count(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(name for name, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def _groups_of(rows: Iterable[FailureCount], by: Sequence[str]) -> dict[Any, _Group]:
    groups: dict[Any, _Group] = {}
    has_cause = CAUSE in by
    for row in rows:
        if not has_cause and row.status == Status.CANCELLED:
            continue
        key, code = (row.key, _code_of(row)) if has_cause else (None, "")
        values = {"version": row.version or None, "node": row.node, "queue": str(row.queue)}
        only = {name: value for name, value in values.items() if name in by}
        groups.setdefault((key, code, *only.values()), _Group(key, code, only, has_cause)).add(row)
    return groups


def _code_of(row: FailureCount) -> str:
    """Of a task without a group: its code, else the name of its status, as `code_of_error` has it."""
    return "" if row.key is not None else row.code or statuses.name(row.status)


def _newest(store: Store, which: TaskFilter, group: _Group, versions: Sequence[str]) -> list[Task]:
    """Some tasks of a group, those created last, as far as they are found in time."""
    if which.statuses is None:
        which = replace(which, statuses=_ENDS if group.has_cause else frozenset(map(int, FAILURES)), or_failed=True)
    if group.key is not None:
        which = replace(which, failure=group.key)
    if group.key is not None and not group.only:
        return list(
            store.find_tasks(which, limit=TASKS_MAX, newest_first=True, with_output=False, with_parameters=False)
        )
    page = store.find_page(
        narrowed(which, group.only, versions), limit=TASKS_MAX, newest_first=True, budget_seconds=_NEWEST_SECONDS,
        with_parameters=False,
    )  # fmt: skip
    return list(page.tasks)


def narrowed(which: TaskFilter, only: Mapping[str, str | None], versions: Sequence[str]) -> TaskFilter:
    """The tasks of a group among those of a selection (rule 3). `versions`: all that are known."""
    where = list(which.where)
    if only.get("version", "") is None:
        where += [Condition(("run", "plugin", "version"), (one,), negated=True) for one in versions]
    if only.get("node", "") is None:
        where.append(Condition(("node",), (NOBODY,)))
    given: dict[str, Any] = {name: value for name, value in only.items() if value is not None}
    return replace(which, where=tuple(where), **given)


_ENDS = frozenset(int(one) for one in (*FAILURES, Status.CANCELLED))


class _Plain:
    """Examples of failures without a group, found when the first is asked for. Each place is queried by itself, to
    match the store's index: this never searches for a few failed tasks among millions of others."""

    def __init__(self, store: Store, which: TaskFilter, rows: Sequence[FailureCount]) -> None:
        self._store = store
        self._which = which
        self._places: Counter[tuple[QueueId, int]] = Counter()
        for row in rows:
            self._places[row.queue, row.status] += row.count
        self._by_code: dict[str, list[Task]] | None = None

    def of(self, code: str, only: Mapping[str, str | None] = {}) -> list[Task]:
        if self._by_code is None:
            self._by_code = {}
            for task in sorted(self._read(), key=_when, reverse=True):
                self._by_code.setdefault(code_of_error(task), []).append(task)
        found = self._by_code.get(code, [])
        return [one for one in found if all(_VALUES[name](one) == value for name, value in only.items())]

    def _read(self) -> list[Task]:
        found: list[Task] = []
        most = self._places.most_common(_PLACES_MAX)
        for (queue_id, status), _ in most:
            which = replace(self._which, queue=queue_id, statuses=frozenset({status}), or_failed=False)
            share = max(1, _PLAIN_MAX // len(most))
            tasks = self._store.find_tasks(
                which, limit=share, newest_first=True, with_output=False, with_parameters=False
            )
            found += (one for one in tasks if group_in(one.document) is None)
        return found


_VALUES: Mapping[str, Callable[[Task], str | None]] = {
    "version": lambda task: (task.run.get("plugin") or {}).get("version"),
    "node": lambda task: task.node,
    "queue": lambda task: str(task.queue),
}


def _when(task: Task) -> float:
    mtime = task.document.get("mtime")
    return mtime.timestamp() if isinstance(mtime, datetime) else 0.0

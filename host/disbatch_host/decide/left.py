"""What a node leaves behind when nothing is left that it can run: how many tasks wait, and for what. Pure.

Responsible for: the reasons, in words. Must not know: stores, logs, when a node leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from disbatch_host import suggested
from disbatch_host.decide.why import queue_obstacles
from disbatch_host.documents import local_time
from disbatch_host.documents.records import NodeRecord, Queue, QueueId, Task
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Some waiting tasks of one queue."""

    queue: QueueId
    count: int
    words: str  # after the id of the queue: `1 waiting: no node is alive`, `1 waits for a task that has failed`


class _Cause(StrEnum):
    """What a Blocked task waits for, after "wait" or "waits"; the first that applies to a task counts."""

    FAILED = "for a task that has failed"
    CANCELLED = "for a task that was cancelled"
    ORPHANED = "for a task that is orphaned"
    GONE = "for a task that no longer exists"
    UNFINISHED = "for a task that has not ended"
    LATER = "for a later time"
    HELD = "although nothing says for what"


def left_waiting(
    counts: Mapping[QueueId, Mapping[int, int]],
    queues: Sequence[Queue],
    nodes: Sequence[NodeRecord],
    *,
    served: Set[QueueId],
    now: datetime,
) -> list[Left]:
    """The tasks that wait to be claimed, by queue. `counts`: tasks by queue and status. `served`: the queues that the
    node runs; it has left only those of their tasks that cannot be claimed."""
    by_id = {queue.id: queue for queue in queues}
    left = []
    for queue_id in sorted(counts.keys(), key=str):
        waiting = counts[queue_id].get(Status.CREATED)
        if waiting and queue_id in served:
            words = f"{waiting} waiting: no node can claim {'it as it is' if waiting == 1 else 'them as they are'}"
            shows = suggested.hint("task list", "--queue", queue_id, "--status", "created")
            left.append(
                Left(queue=queue_id, count=waiting, words=f"{words}; {shows} shows them, and task why its reason")
            )
        elif waiting:
            obstacles = queue_obstacles(by_id.get(queue_id), nodes, now=now, queue_id=str(queue_id))
            why = "; ".join([one.sentence for one in obstacles]) or "another node runs them"
            left.append(Left(queue=queue_id, count=waiting, words=f"{waiting} waiting: {why}"))
    return left


def left_blocked(tasks: Iterable[Task], others: Mapping[str, Task]) -> list[Left]:
    """The Blocked tasks, by queue and by what they wait for. `others`: the tasks that they wait for, by their ids as
    text (which may be of any type), as far as they exist."""
    blocked = {str(task.id): task for task in tasks}
    causes: dict[str, _Cause] = {}
    counts: Counter[tuple[str, _Cause]] = Counter()
    first_due: dict[str, datetime] = {}
    for task_id, task in blocked.items():
        cause, queue = _cause(task_id, blocked, others, causes), str(task.queue)
        counts[queue, cause] += 1
        due = task.document.get("not_before")
        if cause is _Cause.LATER and isinstance(due, datetime):
            first_due[queue] = min(due, first_due.get(queue, due))
    left = []
    order = list(_Cause)
    for (queue, cause), count in sorted(counts.items(), key=lambda one: (one[0][0], order.index(one[0][1]))):
        words = f"{count} {'waits' if count == 1 else 'wait'} {cause}"
        if cause is _Cause.LATER and queue in first_due:
            words += f"{': ' if count == 1 else ', the first until '}{local_time.shown(first_due[queue], 'seconds')}"
        left.append(Left(queue=queue, count=count, words=words))
    return left


def _cause(task_id: str, blocked: Mapping[str, Task], others: Mapping[str, Task], causes: dict[str, _Cause]) -> _Cause:
    """The cause of one task. A task that waits for a Blocked one waits, in the end, for the same as that one; `causes`
    remembers what was found. Tasks that wait for each other in a circle wait for one that has not ended."""
    path: dict[str, None] = {}
    current: str | None = task_id
    found = None
    while found is None and current is not None and current not in path:
        path[current] = None
        found = causes.get(current) or _own_cause(blocked[current], others)
        current = next((one for one in _after(blocked[current]) if one in blocked), None)
    found = found or _Cause.UNFINISHED
    causes |= dict.fromkeys(path, found)
    return found


def _own_cause(task: Task, others: Mapping[str, Task]) -> _Cause | None:
    """What keeps it by itself; None if only tasks that have not ended do."""
    after = _after(task)
    if not after:
        return _Cause.LATER if isinstance(task.document.get("not_before"), datetime) else _Cause.HELD
    found = {_cause_of_end(others.get(one), after_any=bool(task.document.get("after_any"))) for one in after}
    return next((cause for cause in _Cause if cause in found), None)


def _cause_of_end(other: Task | None, *, after_any: bool) -> _Cause | None:
    if other is None:
        return _Cause.GONE
    if other.status == Status.ORPHANED:
        return _Cause.ORPHANED
    if after_any or not statuses.is_finished(other.status) or other.status == Status.CONCLUDED:
        return None
    return _Cause.CANCELLED if other.status == Status.CANCELLED else _Cause.FAILED


def _after(task: Task) -> list[str]:
    """The tasks that it waits for."""
    after = task.document.get("after")
    return [str(one) for one in after] if isinstance(after, (list, tuple)) else []

"""What is due for tasks that no node has in hand: the ends that others wait for, what expires, what is to be cancelled,
and ended tasks that their queue does not keep any longer.

Responsible for: finding them (`Store.due` and the store's indexes do the looking) and writing what `run_document`
decides. Any node does it; all of them may do it at once. Must not know: runs, processes, the event loop; called in the
store's thread.

Rules:
1. Every write is guarded, so two nodes that do the same thing do it once. What was refused comes with the next look.
2. Each call does a bounded piece: the store's thread has others to serve.
3. An end is told to all who wait for it before its mark `awaited` is taken away: whoever dies in between leaves it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from disbatch_host.documents import transitions
from disbatch_host.documents.changes import TaskChange, TaskFilter
from disbatch_host.documents.records import Queue, Task
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status

_FOLLOWERS = 1000  # told in one call
_TELL_SECONDS = 0.2  # spent on that in one call: heartbeats and claims wait for so long
_DELETED = 500  # ended tasks deleted in one call

_WAITING = frozenset({int(Status.BLOCKED), int(Status.CREATED)})
_ENDED = frozenset(int(status) for status in statuses.ENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What came of it."""

    to_stop: Sequence[Task] = ()  # they run on this node, and somebody wants them cancelled
    changed: int = 0  # tasks


def settle_due(store: Store, node_id: str) -> Settled:
    """Do what is due now."""
    found = store.due(node_id)
    if not found:
        return Settled()
    now = store.now()
    changed = 0
    deadline = time.monotonic() + _TELL_SECONDS
    to_stop: list[Task] = []
    changes: list[TaskChange] = []
    for task in found:
        request = task.cancel
        if task.status == Status.RUNNING:
            if task.node == node_id and request is not None:
                to_stop.append(task)
        elif request is not None and not _has_ended(task):
            change = transitions.cancel_change(task, request, now=now)
            changes += [] if change is None else [change]
        elif task.status in _WAITING:
            changes.append(transitions.expire_change(task, now=now))
        elif task.document.get("awaited") is True and time.monotonic() < deadline:  # the others at the next look
            changed += _tell_followers(store, task, deadline)
    if changes:
        changed += len(changes) - len(store.change_tasks(changes))
    return Settled(to_stop=to_stop, changed=changed)


def _has_ended(task: Task) -> bool:
    """Orphaned has not: a person decides what becomes of it."""
    return statuses.is_finished(task.status) and task.status != Status.ORPHANED


def _tell_followers(store: Store, ended: Task, deadline: float) -> int:
    """Tell some of those that wait for this task how it has ended, and how many; when nobody is left, take its mark
    away."""
    now = store.now()
    which = TaskFilter(after=ended.id, statuses=frozenset({int(Status.BLOCKED)}))
    changes = []
    is_all = True
    # One that was told that this task has failed goes on waiting for it, so it is found again: it needs no change.
    for follower in store.find_tasks(which, with_output=False, in_any_order=True):
        change = transitions.follow_change(follower, ended, now=now)
        if change is not None:
            changes.append(change)
        if len(changes) == _FOLLOWERS or time.monotonic() > deadline:
            is_all = False
            break
    refused = store.change_tasks(changes) if changes else set()
    if is_all and not refused:
        store.change_tasks([transitions.told_change(ended)])
    return len(changes) - len(refused)


def delete_ended(store: Store, queue: Queue) -> int:
    """Delete some of the queue's tasks that ended longer ago than it keeps them; how many. Orphaned ones stay: nobody
    has decided about them yet."""
    if queue.keep_seconds is None:
        return 0
    ids = store.ended_before(queue.id, store.now() - timedelta(seconds=queue.keep_seconds), _DELETED)
    return store.delete_tasks(ids, statuses=_ENDED, failed_too=True) if ids else 0

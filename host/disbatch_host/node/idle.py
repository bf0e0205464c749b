"""The end of a node with --until-idle: when it has nothing left to do, and which waiting tasks it leaves to others.

Responsible for: finding out both. Must not know: how tasks are claimed.

Rules:
1. Nothing is left when no task of a queue that it serves is waiting, running or due soon, and everything that was due
   has been done: the end of one task may let the next begin.
2. A task that is due within `Pace.idle_wait_seconds` is waited for. One for a later time is left, and so is one that
   waits for a task that this node cannot bring to its end.
3. Every task that is left is counted and its cause named.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import timedelta

from disbatch_host import logs, suggested
from disbatch_host.decide import placement
from disbatch_host.decide.left import Left, left_blocked, left_waiting
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Queue, QueueId, Task, TaskId
from disbatch_host.errors import StoreError
from disbatch_host.node.claiming import Claiming
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.duties.batches import Surveys, settle_batches
from disbatch_host.node.duties.due import settle_due
from disbatch_host.node.duties.lost_runs import LostRuns
from disbatch_host.node.pace import Pace
from disbatch_host.node.runs import Runs
from disbatch_host.node.store_health import StoreHealth
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

_NAMED_MAX = 5  # lines about tasks that are left; `status` shows them all
_BLOCKED_MAX = 10_000  # Blocked tasks whose causes are looked for
_IDS_IN_LOOK = 1000
_IN_VAIN_MAX = 5
_BLOCKED = frozenset({int(Status.BLOCKED)})


class Idle:
    """Used in the event loop."""

    def __init__(
        self,
        runs: Runs,
        claiming: Claiming,
        lost_runs: LostRuns,
        store_thread: StoreThread,
        health: StoreHealth,
        troubles: Troubles,
        pace: Pace,
    ) -> None:
        self._runs = runs
        self._claiming = claiming
        self._lost_runs = lost_runs
        self._store_thread = store_thread
        self._health = health
        self._troubles = troubles
        self._pace = pace
        self._surveys = Surveys()
        self._node_id = runs.context.site.node_id
        self._looks_in_vain = 0  # for what is due, one after the other: something was, and none of it could be done

    async def is_reached(self) -> bool:
        """Whether nothing is left to do; False while the store cannot tell."""
        if self._runs or self._claiming.needs_look:
            return False
        ids = [queue.id for queue in self._served_queues()]
        # All that they would still do is what the store refuses.
        stuck = frozenset(self._runs.unrecorded | self._lost_runs.unsettled)
        try:
            is_left = await self._store_thread.call(lambda store: self._is_anything_left(store, ids, stuck))
        except StoreError as error:
            self._health.report_trouble(error)
            return False
        if is_left is None:
            self._claiming.on_change()  # others may wait no longer
        return is_left is False

    def _is_anything_left(self, store: Store, ids: Collection[QueueId], stuck: Collection[TaskId]) -> bool | None:
        """None: something was due, and has been done. In the store's thread."""
        soon = store.now() + timedelta(seconds=self._pace.idle_wait_seconds)
        if ids and store.has_unfinished(list(ids), due_before=soon, besides=stuck):
            return True
        # A batch that is done may have a task to create.
        batches = settle_batches(store, self._node_id, self._troubles, self._surveys, seconds=self._pace.piece_seconds)
        settled = settle_due(store, self._node_id, self._troubles, seconds=self._pace.piece_seconds)
        has_changed = bool(settled.changed or batches.created or batches.goes_on)
        is_all = settled.is_all and batches.is_all
        self._looks_in_vain = 0 if has_changed or is_all else self._looks_in_vain + 1
        if self._looks_in_vain > _IN_VAIN_MAX:
            return False  # something cannot be written: it waits for a person
        return None if has_changed or not is_all else False

    async def log_what_is_left(self) -> None:
        """Name the waiting tasks that are left: "nothing is left" must not suggest that no task waits."""
        served = {queue.id for queue in self._served_queues()}
        queues = self._claiming.queues

        def look(store: Store) -> list[Left]:
            counts = store.count_by_status()
            is_blocked = any(of_queue.get(Status.BLOCKED) for of_queue in counts.values())
            blocked = _blocked(store) if is_blocked else []
            return [*left_waiting(counts, queues, store.nodes(), served=served, now=store.now()), *blocked]

        try:
            left = await self._store_thread.call(look)
        except StoreError as error:
            self._health.report_trouble(error)
            return
        self._log_refused("end", self._runs.unrecorded)
        self._log_refused("loss", self._lost_runs.unsettled)
        if not left:
            log.info("nothing is left to do")
            return
        total = sum(one.count for one in left)
        log.warning("nothing is left to do here; waiting tasks that this node does not run: %d", total)
        for one in left[:_NAMED_MAX]:
            log.warning("queue %s, %s", one.queue, one.words, extra=logs.ids(queue=one.queue))
        if len(left) > _NAMED_MAX:
            more = sum(one.count for one in left[_NAMED_MAX:])
            log.warning("and %d more; %s tells of them", more, suggested.hint("status"))

    def _log_refused(self, what: str, tasks: Collection[TaskId]) -> None:
        for task_id in sorted(tasks, key=str)[:_NAMED_MAX]:
            log.warning(
                "task %s: the store refuses to record its %s; it stays as it is until that is mended", task_id, what
            )
        if len(tasks) > _NAMED_MAX:
            log.warning("and %d more", len(tasks) - _NAMED_MAX)

    def _served_queues(self) -> list[Queue]:
        """The queues whose tasks this node can start as things are; one with maxthreads 0 starts none."""
        queues, classes, load = self._claiming.queues, self._claiming.classes, self._runs.load
        served = placement.served(queues, node_id=self._node_id, classes=classes)
        return [queue for queue in served if placement.limit_of(queue, load) > 0 and queue.maxtotal != 0]


def _blocked(store: Store) -> list[Left]:
    """The Blocked tasks of all queues."""
    which = TaskFilter(statuses=_BLOCKED)
    tasks = list(
        store.find_tasks(which, limit=_BLOCKED_MAX, with_output=False, with_parameters=False, in_any_order=True)
    )
    waited_for = {
        str(one): one
        for task in tasks
        if isinstance(after := task.document.get("after"), (list, tuple))
        for one in after
    }
    ids: list[TaskId] = list(waited_for.values())
    others: dict[str, Task] = {}
    for start in range(0, len(ids), _IDS_IN_LOOK):
        some = TaskFilter(ids=ids[start : start + _IDS_IN_LOOK])
        others |= {
            str(one.id): one
            for one in store.find_tasks(some, with_output=False, with_parameters=False, in_any_order=True)
        }
    return left_blocked(tasks, others)

"""The duty that pauses a queue of which too many tasks fail (`pause_on_failures`).

Responsible for: looking in time, and the pause. Any node does it for all queues; all of them may do it at once. Must
not know: when failures are too many (`decide.failing`), how tasks run.

Rules:
1. The store is asked only about queues that have a limit and are not paused.
2. The pause is written only if the queue still has the limit, and was neither paused nor resumed meanwhile: of several
   nodes one pauses it, and a pause that somebody has just ended does not come back by an older look.
3. It looks soon after a task of such a queue has failed here, and else now and then, for the failures of other nodes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from disbatch_host import logs, suggested
from disbatch_host.decide.failing import too_many_failures
from disbatch_host.documents import requests
from disbatch_host.documents.records import Queue, Task
from disbatch_host.node.claiming import Claiming
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.run.report import RunReport
from disbatch_host.store.contract import Store
from disbatch_protocol.status import is_failed

log = logging.getLogger(__name__)

_WHAT = "pause_on_failures of queue"


class FailingQueues:
    """See `rounds.Duty`."""

    def __init__(
        self, store_thread: StoreThread, claiming: Claiming, node_id: str, troubles: Troubles, pace: Pace
    ) -> None:
        self.name = "failing queues"
        self._store_thread = store_thread
        self._claiming = claiming
        self._node_id = node_id
        self._troubles = troubles
        self._pace = pace
        self.interval_seconds = pace.failing_queues_seconds
        self._loop = asyncio.get_running_loop()
        self._looked_at = float("-inf")
        self._is_planned = False  # a look soon
        self._queues: Sequence[Queue] = ()  # of which `_limited` was made
        self._limited: frozenset[object] = frozenset()  # the ids of those that have a limit
        self.wake = asyncio.Event()  # see `Rounds`

    def on_end(self, task: Task, report: RunReport) -> None:
        """A run of this node has ended, and that is recorded."""
        if report.error_group is None or self._is_planned:
            return
        if self._queues is not self._claiming.queues:
            self._queues = self._claiming.queues
            self._limited = frozenset(one.id for one in self._queues if one.pause_on_failures is not None)
        if task.queue in self._limited and report.conclusion is not None and is_failed(report.conclusion.status):
            self._is_planned = True
            self._loop.call_at(self._looked_at + self._pace.failing_queues_after_failure_seconds, self._look_now)

    def _look_now(self) -> None:
        self._is_planned = False
        self.wake.set()

    async def turn(self) -> None:
        """One look at each queue that has a limit."""
        self._looked_at = self._loop.time()
        limited = [one for one in self._claiming.queues if one.pause_on_failures is not None and one.paused is None]
        if not limited:
            return
        if await self._store_thread.call(lambda store: pause_failing(store, limited, self._node_id, self._troubles)):
            self._claiming.read_queues_again(lambda: None)  # other nodes follow as they do after any change


def pause_failing(store: Store, queues: Sequence[Queue], node_id: str, troubles: Troubles) -> int:
    """Pause those of these queues of which too many tasks have failed; returns how many that were. Called in the
    store's thread."""
    paused = 0
    for queue in queues:
        if not troubles.is_resting(_WHAT, queue.id):
            with troubles.contained(_WHAT, queue.id):
                paused += _pause_if_failing(store, queue, node_id)
    return paused


def _pause_if_failing(store: Store, queue: Queue, node_id: str) -> bool:
    now = store.now()
    found = too_many_failures(
        queue, lambda failed, since, limit: store.last_ends(queue.id, failed=failed, since=since, limit=limit), now
    )
    if found is None:
        return False
    request = {**requests.request_of(f"node {node_id}", found.why, now=now), "failures": found.failures}
    guard = {name: queue.document.get(name) for name in ("paused", "pause_on_failures", "resumed_at")}
    if not store.update_queue(queue.id, {"paused": request}, only_if=guard):
        return False
    log.warning(
        "queue %s is paused: %s; %s starts its tasks again",
        queue.id, found.why, suggested.hint("queue resume", queue.id), extra=logs.ids(queue=queue.id),
    )  # fmt: skip
    return True

"""The end of a node with --until-idle: when it has nothing left to do, and which waiting tasks it leaves to others.

Responsible for: finding out both. Must not know: how tasks are claimed.
"""

from __future__ import annotations

import logging

from disbatch_host import logs
from disbatch_host.decide import placement
from disbatch_host.decide.why import left_waiting
from disbatch_host.documents.records import Queue, QueueId
from disbatch_host.errors import StoreError
from disbatch_host.node.claiming import Claiming
from disbatch_host.node.runs import Runs
from disbatch_host.node.store_health import StoreHealth
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.store.contract import Store

log = logging.getLogger(__name__)

QUEUES_NAMED_MAX = 5  # queues whose tasks the node leaves, each with the reason


class Idle:
    """Used in the event loop."""

    def __init__(self, runs: Runs, claiming: Claiming, store_thread: StoreThread, health: StoreHealth) -> None:
        self._runs = runs
        self._claiming = claiming
        self._store_thread = store_thread
        self._health = health
        self._node_id = runs.context.site.node_id

    async def is_reached(self) -> bool:
        """Whether nothing is left to do; False while the store cannot tell."""
        if self._runs or self._claiming.needs_look:
            return False
        ids = [queue.id for queue in self._served_queues()]
        try:
            return not ids or not await self._store_thread.call(lambda store: store.has_unfinished(ids))
        except StoreError as error:
            self._health.report_trouble(error)
            return False

    async def log_what_is_left(self) -> None:
        """Name the waiting tasks that this node cannot run: "nothing is left" must not suggest that no task waits."""
        served = {queue.id for queue in self._served_queues()}
        queues = self._claiming.queues

        def look(store: Store) -> list[tuple[QueueId, int, str]]:
            return left_waiting(store.count_by_status(), queues, store.nodes(), served=served, now=store.now())

        try:
            left = await self._store_thread.call(look)
        except StoreError as error:
            self._health.report_trouble(error)
            return
        if not left:
            log.info("nothing is left to do")
            return
        total = sum(count for _, count, _ in left)
        log.warning("nothing is left to do here; waiting tasks that this node does not run: %d", total)
        for queue_id, count, why in left[:QUEUES_NAMED_MAX]:
            log.warning("queue %s, %d waiting: %s", queue_id, count, why, extra=logs.ids(queue=queue_id))
        if len(left) > QUEUES_NAMED_MAX:
            log.warning("and of %d more queues; `disbatch-host status` shows all", len(left) - QUEUES_NAMED_MAX)

    def _served_queues(self) -> list[Queue]:
        """The queues whose tasks this node can start as things are; one with maxthreads 0 starts none."""
        queues, classes, load = self._claiming.queues, self._claiming.classes, self._runs.load
        served = placement.served(queues, node_id=self._node_id, classes=classes)
        return [queue for queue in served if placement.limit_of(queue, load) > 0]

"""A node among the others: its id, and what dead ones have left.

Responsible for: taking the id, keeping it by a heartbeat and letting go of it; settling what an earlier life of this
node, and nodes that are dead, have left. Must not know: runs, what else a node's document says.

Rules:
1. An id belongs to a session, one life of a node. Every write of the node's document names it, so a node whose id was
   taken over changes nothing of the other's.
2. Whether a node is dead is decided by `policy`, by the store's clock and by what was seen here of its heartbeat.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from disbatch_host import logs
from disbatch_host.clock import Clock
from disbatch_host.decide import membership
from disbatch_host.decide.membership import HeartbeatWatch
from disbatch_host.documents.records import Document, NodeRecord
from disbatch_host.errors import NodeIdInUseError
from disbatch_host.node import node_document
from disbatch_host.node.duties import lost_runs
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.process.facts import process_started
from disbatch_host.process.leftovers import is_alive
from disbatch_host.process.machine import Machine
from disbatch_host.store.contract import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What came of a heartbeat."""

    requests: Mapping[str, Any] | None  # what people ask of the node; None: the document is not its own any more
    silent_seconds: float  # since the one before that was answered
    store_time: datetime
    at: float  # of the monotonic clock, when the store said that


class Membership:
    """One life of a node. What is awaited may raise StoreError. `clock` is the local one, of which only the steady time
    counts."""

    def __init__(self, node_id: str, store_thread: StoreThread, clock: Clock) -> None:
        self.machine = Machine.this()
        self._node_id = node_id
        self._store_thread = store_thread
        self._clock = clock
        self._session = uuid.uuid4().hex
        self._earlier_life: NodeRecord | None = None
        self._last_beat = 0.0
        self._others = HeartbeatWatch()

    def identity(self) -> Document:
        """Of the node's document: who it is."""
        return {
            "_id": self._node_id,
            "session": self._session,
            "host": self.machine.document,
            "pid_started": process_started(os.getpid()),
        }

    async def find_holder(self, *, force: bool, dead_after_seconds: float) -> NodeRecord | None:
        """Who has the id. Raises NodeIdInUseError where it may not be taken (den-1.0, rule 1)."""
        record = await self._store_thread.call(lambda store: store.get_node(self._node_id))
        if record is None or force:
            return record
        host, heartbeat = record.document.get("host"), record.document.get("heartbeat")
        pid = heartbeat.get("pid") if isinstance(heartbeat, dict) else None
        holder = membership.Holder(
            record=record,
            is_on_this_machine=self.machine.is_same(host),
            is_process_alive=is_alive(pid, record.document.get("pid_started")),
        )
        if not membership.may_take_id(holder, dead_after_seconds=dead_after_seconds):
            raise NodeIdInUseError(node_document.in_use(self._node_id, record))
        return record

    async def take_id(self, document: Document, holder: NodeRecord | None) -> None:
        """From whoever had it. Raises NodeIdInUseError where another was faster."""
        if not await self._store_thread.call(lambda store: store.put_node(document, replacing=holder)):
            now_held = await self._store_thread.call(lambda store: store.get_node(self._node_id))
            raise NodeIdInUseError(node_document.in_use(self._node_id, now_held))
        self._earlier_life = holder
        self._last_beat = self._clock.monotonic()

    async def settle_earlier_life(self) -> None:
        """Clean up before the first claim (den-1.0, rule 2)."""
        # Tasks with this id may be left although no node document is; processes of it can only be here.
        before = self._earlier_life
        is_on_this_machine = before is None or self.machine.is_same(before.document.get("host"))
        settled = await self._store_thread.call(
            lambda store: lost_runs.settle(store, self._node_id, is_on_this_machine=is_on_this_machine)
        )
        if settled:
            log.warning("of the tasks of an earlier life of node %s, %s", self._node_id, settled)

    async def beat(self, fields: Document) -> Beat:
        """Renew these fields of the document, and the date of the heartbeat."""

        def renew(store: Store) -> tuple[Mapping[str, Any] | None, datetime, float]:
            return store.heartbeat(self._node_id, self._session, fields), store.now(), self._clock.monotonic()

        requests, store_time, at = await self._store_thread.call(renew)
        silent_seconds, self._last_beat = at - self._last_beat, at
        return Beat(requests=requests, silent_seconds=silent_seconds, store_time=store_time, at=at)

    async def write_again(self, document: Document) -> bool:
        """Where the document is gone, deleted by a person. False: another node has the id."""
        if not await self._store_thread.call(lambda store: store.put_node(document, replacing=None)):
            return False
        log.warning("the document of node %s was gone; it is written again", self._node_id)
        return True

    async def settle_dead_nodes(self, *, dead_after_seconds: float) -> bool:
        """Look for nodes that are dead; whether any had left something."""
        nodes = await self._store_thread.call(lambda store: store.nodes())
        dead = membership.dead_nodes(
            nodes,
            own_id=self._node_id,
            dead_after_seconds=dead_after_seconds,
            watched_seconds=self._others.look(nodes, at=self._clock.monotonic()),
        )
        if not dead:
            return False
        swept = await self._store_thread.call(lambda store: [(node.id, self._settle(store, node)) for node in dead])
        for node_id, settled in swept:
            if settled:
                log.warning("node %s is dead: of its tasks, %s", node_id, settled, extra=logs.ids(about_node=node_id))
        return any(settled for _, settled in swept)

    def _settle(self, store: Store, node: NodeRecord) -> lost_runs.Settled:
        is_on_this_machine = self.machine.is_same(node.document.get("host"))
        return lost_runs.settle(store, node.id, is_on_this_machine=is_on_this_machine)

    def forget_others(self) -> None:
        """The store was away: what was seen of other nodes counts for nothing."""
        self._others.forget()

    async def release(self) -> None:
        """Give the id free, where it is still this session's."""
        await self._store_thread.call(lambda store: store.remove_node(self._node_id, self._session))

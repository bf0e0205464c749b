"""The membership of a node among the others: its id.

Responsible for: taking the id, keeping it by a heartbeat and releasing it. Must not know: runs, other nodes, the rest
of a node's document.

Rule: an id belongs to a session, one life of a node. Every write of the node's document names the session, so a node
whose id was taken over changes nothing in the document of its successor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from disbatch_host.clock import Clock
from disbatch_host.decide import membership, readings
from disbatch_host.documents.changes import PassedOver
from disbatch_host.documents.records import Document, NodeRecord
from disbatch_host.errors import NodeIdInUseError
from disbatch_host.node import default_id, node_document
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.process.facts import process_started
from disbatch_host.process.leftovers import is_alive
from disbatch_host.process.machine import Machine
from disbatch_host.store.contract import Store

log = logging.getLogger(__name__)

_LEAVING_SECONDS = 10.0  # for the process of a node that has left to end
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The store's answer to a heartbeat."""

    requests: Mapping[str, Any] | None  # of people to the node; None: it no longer owns the document
    silent_seconds: float  # since the one before that was answered
    passed_over: Sequence[PassedOver]  # waiting tasks that the store's claims pass over
    store_time: datetime
    at: float  # the monotonic time when the store gave it


class Membership:
    """One life of a node. Everything that is awaited may raise StoreError. `clock` is the local one; only its monotonic
    time is used."""

    def __init__(self, node_id: str, store_thread: StoreThread, clock: Clock) -> None:
        self.machine = Machine.this()
        self._node_id = node_id
        self._store_thread = store_thread
        self._clock = clock
        self._session = uuid.uuid4().hex
        self._last_beat = 0.0

    def identity(self) -> Document:
        """The part of the node's document that identifies it."""
        return {
            "_id": self._node_id,
            "session": self._session,
            "host": self.machine.document,
            "pid_started": process_started(os.getpid()),
        }

    async def find_holder(self, *, force: bool, dead_after_seconds: float) -> NodeRecord | None:
        """The document of the node that holds the id. Raises NodeIdInUseError if the id may not be taken
        (den-1.0, rule 1): that of another program's node never, since only that program knows what becomes of its
        tasks."""
        nodes = await self._store_thread.call(lambda store: store.nodes())
        foreign = default_id.foreign_holder(nodes, self._node_id)
        if foreign is not None:
            raise NodeIdInUseError(node_document.in_use_by_other_program(self._node_id, foreign))
        record = next((one for one in nodes if one.id == self._node_id), None)
        if record is None or force:
            return record
        holder = self._holder(record)
        until = self._clock.monotonic() + _LEAVING_SECONDS
        while holder.is_on_this_machine and holder.is_process_alive and readings.is_away(record):
            if self._clock.monotonic() > until:
                break
            await asyncio.sleep(_LOOK_SECONDS)  # it has left, and its process is just ending
            holder = self._holder(record)
        if membership.may_take_id(holder, dead_after_seconds=dead_after_seconds):
            return record
        is_elsewhere = readings.is_away(record) and not holder.is_on_this_machine
        words = node_document.away_elsewhere if is_elsewhere else node_document.in_use
        raise NodeIdInUseError(words(self._node_id, record))

    def _holder(self, record: NodeRecord) -> membership.Holder:
        host, heartbeat = record.document.get("host"), record.document.get("heartbeat")
        pid = heartbeat.get("pid") if isinstance(heartbeat, dict) else None
        return membership.Holder(
            record=record,
            is_on_this_machine=self.machine.is_same(host),
            is_process_alive=is_alive(pid, record.document.get("pid_started")),
            is_of_earlier_boot=self.machine.is_earlier_boot(host),
        )

    async def take_id(self, document: Document, holder: NodeRecord | None) -> None:
        """Register, replacing `holder`. Raises NodeIdInUseError if another node was faster."""
        if not await self._store_thread.call(lambda store: store.put_node(document, replacing=holder)):
            now_held = await self._store_thread.call(lambda store: store.get_node(self._node_id))
            raise NodeIdInUseError(node_document.in_use(self._node_id, now_held))
        self._last_beat = self._clock.monotonic()

    async def beat(self, fields: Document) -> Beat:
        """Renew these fields of the document, and the date of the heartbeat."""

        def renew(store: Store) -> tuple[Mapping[str, Any] | None, list[PassedOver], datetime, float]:
            requests = store.heartbeat(self._node_id, self._session, fields)
            try:
                passed_over = store.passed_over()
            except Exception:  # the heartbeat was written all the same
                passed_over = []
            return requests, passed_over, store.now(), self._clock.monotonic()

        requests, passed_over, store_time, at = await self._store_thread.call(renew)
        silent_seconds, self._last_beat = at - self._last_beat, at
        return Beat(
            requests=requests, silent_seconds=silent_seconds, passed_over=passed_over, store_time=store_time, at=at
        )

    async def write_again(self, document: Document) -> bool:
        """Write the document again after a person deleted it. False: another node has the id."""
        if not await self._store_thread.call(lambda store: store.put_node(document, replacing=None)):
            return False
        log.warning("the document of node %s was gone; it is written again", self._node_id)
        return True

    async def is_held(self) -> bool:
        """Whether this session holds the id now."""
        found = await self._store_thread.call(lambda store: store.get_node(self._node_id))
        return found is not None and found.session == self._session

    async def is_held_here(self, home: Path | None) -> bool:
        """Whether another process of this machine holds the id, with the same home."""
        found = await self._store_thread.call(lambda store: store.get_node(self._node_id))
        if found is None or found.session == self._session or home is None:
            return False
        return self.machine.is_same(found.document.get("host")) and found.document.get("home") == str(home)

    async def release(self) -> None:
        """Release the id if this session still holds it."""
        await self._store_thread.call(lambda store: store.remove_node(self._node_id, self._session))

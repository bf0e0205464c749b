"""The duty that renews the node's document, and obeys the requests that people put there.

Responsible for: the heartbeat, and the last one of a node that leaves its runs; drain, resume and stop; noticing that
the node was silent for too long, or that its id belongs to another node. Must not know: how the document is stored, how
runs are stopped.

Each part of the document is made and written by itself where that is not possible together: a heartbeat that is not
written costs the node its tasks.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disbatch_host import __version__, logs
from disbatch_host.clock import Clock, StoreClock
from disbatch_host.decide import placement
from disbatch_host.documents.changes import PassedOver
from disbatch_host.documents.records import Document, NodeRecord, Queue
from disbatch_host.documents.storable import storable
from disbatch_host.node import node_document
from disbatch_host.node.acceptance import Acceptance
from disbatch_host.node.claiming import Claiming
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.leaving import Leave
from disbatch_host.node.membership import Membership
from disbatch_host.node.node_document import ShownSettings
from disbatch_host.node.runs import Runs
from disbatch_host.node.stopping import Stopping
from disbatch_host.node.store_health import StoreHealth
from disbatch_host.plugin.classes import Classes
from disbatch_protocol import SPEC_VERSION
from disbatch_protocol.quantities import format_duration

if TYPE_CHECKING:  # a node that serves no metrics need not import what they take
    from disbatch_host.metrics.counters import Metrics

log = logging.getLogger(__name__)


class Heartbeat:
    """See `rounds.Duty`. `settings` may be replaced at any time."""

    def __init__(
        self,
        settings: ShownSettings,
        membership: Membership,
        runs: Runs,
        claiming: Claiming,
        classes: Classes,
        stopping: Stopping,
        health: StoreHealth,
        troubles: Troubles,
        clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:
        """`clock`: the store's, which each heartbeat sets by the store's answer."""
        self.name = "heartbeat"
        self.settings = settings
        self._troubles = troubles
        self._acceptance = Acceptance(troubles)
        self._membership = membership
        self._runs = runs
        self._claiming = claiming
        self._classes = classes
        self._stopping = stopping
        self._health = health
        self._clock = clock
        self._metrics = metrics
        self._node_id = runs.context.site.node_id
        self._drain: Mapping[str, Any] | None = None  # who asked that nothing more be claimed here, when and why
        self._passed_over: Sequence[PassedOver] = ()
        self._obeyed_stop: object = None  # the last request to stop that was obeyed
        self._asked_to_read: str | None = None  # the token of the last request to read the queues
        self._queues_read: str | None = None  # the token of the last one that was carried out
        self.own_supervisors: Callable[[], Sequence[Document]] = lambda: ()  # which outlive this node
        self.digests: Callable[[], Mapping[str, str]] = dict  # of what is published about its plugins, by class
        self.earlier_supervisors: Sequence[Document] = ()  # of an earlier life, until it is settled
        self.home: Path | None = None  # of the supervisors of runs that go on without this node
        self.wake = asyncio.Event()  # set when the next heartbeat should come at once: somebody waits for an answer

    @property
    def interval_seconds(self) -> float:
        return self.settings.heartbeat_seconds

    async def turn(self) -> None:
        """One heartbeat, and another after each that brought a request, so that people see at once that it was
        received."""
        while await self._beat():
            pass

    async def _beat(self) -> bool:
        """Renew the document. Returns whether a request was new."""
        fields = self._living_fields()
        if self._metrics is not None:
            with self._troubles.contained("metrics", "heartbeat"):
                self._metrics.observe_heartbeat(fields)
        beat = await self._acceptance.write(fields, self._membership.beat)
        self._health.report_write()
        self._see_passed_over(beat.passed_over)
        if self._metrics is not None:
            self._metrics.observe_store_reached()
        if isinstance(self._clock, StoreClock):
            self._clock.adjust(beat.store_time, at=beat.at)
        if beat.requests is None:
            await self._reclaim_id()
            return False
        if beat.silent_seconds > self.settings.dead_after_seconds:
            silent = format_duration(beat.silent_seconds)
            log.warning("this node was silent for %s; other nodes may have taken its tasks", silent)
            await self._runs.verify()
        return self._obey(beat.requests)

    async def register(self, holder: NodeRecord | None) -> None:
        """Write the document for the first time, in place of `holder`. Raises NodeIdInUseError."""
        await self._acceptance.write(
            self.document(), lambda document: self._membership.take_id(document, holder), in_parts=False
        )

    def set_drain(self, request: Mapping[str, Any] | None) -> None:
        """Stop claiming, as somebody asked, or, with None, claim again."""
        self._drain = request
        self._claiming.is_drained = request is not None

    def _obey(self, requests: Mapping[str, Any]) -> bool:
        """Obey the requests that people made through its document (`node drain | resume | stop`). Returns whether any
        was new."""
        drain, stop = requests.get("drain"), requests.get("stop")
        drain = drain if isinstance(drain, Mapping) else None
        is_new = (drain is None) is not (self._drain is None)
        self.set_drain(drain)
        self._read_queues(requests.get("queues"))
        if is_new:
            if not self._claiming.claims_nothing:
                self._claiming.read_queues_again(self.wake.set)
            if drain is not None:
                log.warning("%s wants this node drained%s: it claims nothing more", *node_document.who_and_why(drain))
            else:
                log.warning("this node claims tasks again")
                self._claiming.on_change()
        if isinstance(stop, Mapping) and stop != self._obeyed_stop:
            self._obeyed_stop = stop
            log.warning("%s wants this node stopped%s", *node_document.who_and_why(stop))
            if stop.get("keep_runs") is True:
                by, why = stop.get("by"), stop.get("why")
                self._stopping.leave(Leave(by=str(by or "somebody"), why=why if isinstance(why, str) else None))
            else:
                self._stopping.request()
            is_new = True
        return is_new

    def _read_queues(self, request: Any) -> None:
        """Obey the request of somebody who has changed a queue and waits until this node claims by what it says now."""
        token = request.get("token") if isinstance(request, Mapping) else None
        if not isinstance(token, str) or token == self._asked_to_read:
            return
        self._asked_to_read = token

        def confirm() -> None:
            self._queues_read = token
            self.wake.set()

        self._claiming.read_queues_again(confirm)

    async def _reclaim_id(self) -> None:
        """The document is no longer this session's: deleted by a person (write it again), or the id was taken by
        force."""
        if await self._acceptance.write(self.document(), self._membership.write_again, in_parts=False):
            return
        if self._keeps_runs and await self._membership.is_held_here(self.home):
            self._stopping.hand_over()
        else:
            log.error("node id %s was taken over by another node; this one stops its tasks and exits", self._node_id)
            self._stopping.lose_id()

    def _see_passed_over(self, found: Sequence[PassedOver]) -> None:
        known = {(one.queue, one.why) for one in self._passed_over}
        for one in found:
            if (one.queue, one.why) not in known:
                log.error(
                    "queue %s: waiting tasks that are passed over: %d; %s", one.queue, one.count, storable(one.why),
                    extra=logs.ids(queue=one.queue),
                )  # fmt: skip
        self._passed_over = found

    async def leave(self, asked: Leave, away_for_seconds: float) -> Document | None:
        """The last heartbeat of a node whose runs go on: what it says of that; None if the document is no longer its
        own. Raises StoreError."""
        away = asked.document(self._clock.now(), away_for_seconds)
        fields = {**self._living_fields(), "state": "away", "away": away}
        beat = await self._acceptance.write(fields, self._membership.beat)
        return None if beat.requests is None else away

    def document(self) -> Document:
        """The whole document of the node, as it is when the node registers."""
        return {
            **self._membership.identity(),
            "version": f"disbatch-host {__version__}",
            "spec_version": SPEC_VERSION,
            "den_version": SPEC_VERSION,
            "started": self._clock.now(),
            "requests": {} if self._drain is None else {"drain": self._drain},
            **self._living_fields(),
        }

    def _living_fields(self) -> Document:
        """The part of the document that each heartbeat renews."""
        fields: Document = {
            "state": self._state,
            "settings": asdict(self.settings),
            "queues_read": self._queues_read,
            "home": str(self.home) if self._keeps_runs else None,
            "supervisors": self._supervisors(),
        }
        with self._troubles.contained("heartbeat", "plugins"):
            fields |= node_document.plugins(self._classes, self.digests())
        heartbeat = {"pid": os.getpid(), "running": len(self._runs), "queues": []}
        with self._troubles.contained("heartbeat", "queues"):
            heartbeat = node_document.heartbeat(
                pid=os.getpid(), running=len(self._runs), queues=self._served(), load=self._runs.load
            )
        if self._keeps_runs:
            heartbeat["kept"] = self._runs.programs
        fields["heartbeat"] = heartbeat
        with self._troubles.contained("heartbeat", "passed_over"):
            fields["passed_over"] = node_document.passed_over(self._passed_over)
        fields["troubles"] = self._troubles.documents()
        return fields

    def _supervisors(self) -> list[Document]:
        own = self.own_supervisors()
        known = {one["id"] for one in own}
        return [*own, *(one for one in self.earlier_supervisors if one["id"] not in known)]

    def _served(self) -> Sequence[Queue]:
        return placement.served(
            self._claiming.queues,
            node_id=self._node_id,
            classes=frozenset(self._classes.plugins),
            even_paused=True,
        )

    @property
    def _keeps_runs(self) -> bool:
        return self.home is not None and self._stopping.why_not_leave() is None

    @property
    def _state(self) -> str:
        if self._claiming.is_stopped:
            return "stopping"
        if self._drain is not None and self._claiming.claims_nothing:
            return "draining" if self._runs else "drained"
        return "running"

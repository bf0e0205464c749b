"""The context that all runs of a node share, and the recorder that makes their changes durable.

Responsible for: everything that a run needs from its host. Must not know: which host that is, single tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from disbatch_host.clock import Clock
from disbatch_host.documents.changes import OutputChunk, Place, RunChange
from disbatch_host.documents.records import Document, TaskId
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.program import ProgramSite
from disbatch_host.process.interface import ProcessHost
from disbatch_host.run.same_delay import SameDelay
from disbatch_host.run.worker.pool import WorkerPool


class Recorder(Protocol):
    """Makes the changes of a run durable."""

    def record(
        self, change: RunChange | None, chunks: Sequence[OutputChunk] = (), *, frees: Place | None = None
    ) -> asyncio.Future[bool]:
        """Record a change and the pieces before it. The future is True once that is durable, False if the change was
        refused (the task is another node's now), or raises StoreError. `frees`: the place that the run no longer takes
        up once this is durable."""

    async def wait_for_budget(self) -> None:
        """Wait until a large record may be made; awaited directly before it (`recording.LARGE_RECORD`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewsPace:
    """How often a run writes its output and events while it goes on."""

    first_seconds: float = 0.2  # output this old is written; a shorter run writes everything once, at its end
    seconds: float = 1.0  # between two writes of one run's output and events


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The context that all runs of a node share."""

    machine_name: str
    recorder: Recorder
    clock: Clock  # the store's: other nodes compare the dates in documents with it
    site: ProgramSite
    processes: ProcessHost
    workers: WorkerPool
    trust_seconds: float  # how old "it is ours" may be when a program is started: far less than `dead_after`
    news: NewsPace = NewsPace()
    supervisor: Mapping[str, Any] = field(default_factory=dict)  # for `run`: where it is started now
    is_deleted: Callable[[TaskId], Awaitable[bool]] | None = None  # whether the store no longer has a task
    extended_json: Callable[[object], object] | None = None  # of types that only the store knows
    first_news: SameDelay = field(default_factory=SameDelay)  # until the first news of a run are written
    same_fields: WeakKeyDictionary[Plugin, Document] = field(default_factory=WeakKeyDictionary)  # see `starting`

"""One task without node and store: the very run of a node, with a document in memory in the place of the store's.

Responsible for: `disbatch-host exec`, and whatever else wants to try a plugin. Must not know: the command line.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disbatch_host import environment, machine, model
from disbatch_host.clock import Clock, SystemClock
from disbatch_host.launch import LaunchSite
from disbatch_host.model import Document, OutputChunk, RunChange, Task
from disbatch_host.plugins import Plugin
from disbatch_host.process.child import StopReason, Stream
from disbatch_host.process.spawn import close_others_on_exec
from disbatch_host.runner import Run, RunReport, Surroundings
from disbatch_host.workers import WorkerPool
from disbatch_protocol.status import Status

LOCAL_NODE_ID = "local"  # what DISBATCH_NODE says where there is no node
LOCAL_QUEUE = "exec"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResult:
    """What came of it: the task document as a node would have left it, and the whole output."""

    document: Document
    report: RunReport
    output: dict[str, bytes]  # by stream; the whole, where the document holds only the beginning

    @property
    def succeeded(self) -> bool:
        return bool(self.document["status"] == Status.CONCLUDED)


def local_site(clock: Clock) -> LaunchSite:
    """What programs are started with where there is no node."""
    return LaunchSite(
        node_id=LOCAL_NODE_ID,
        local_clock=clock,
        host_environment=environment.host_environment(),
        temporary_directory=Path(tempfile.gettempdir()),
    )


class MemoryRecorder:
    """Applies changes to one document in memory; the guard is the store's own."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.pieces: dict[str, list[bytes]] = {}

    def record(self, change: RunChange | None, chunks: Sequence[OutputChunk] = ()) -> asyncio.Future[bool]:
        for chunk in chunks:
            self.pieces.setdefault(chunk.stream, []).append(chunk.data)
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        answer.set_result(change is None or self._apply(change))
        return answer

    def _apply(self, change: RunChange) -> bool:
        if self.document["status"] not in change.statuses:
            return False
        self.document.update(change.set)
        for name in change.unset:
            self.document.pop(name, None)
        return True


def run_once(
    plugin: Plugin,
    parameters: Any,
    *,
    listener: Callable[[Stream, bytes], None] | None = None,
    clock: Clock | None = None,
) -> LocalResult:
    """Run one task to its end, as a node would: same environment, limits, time limits and outcome. One attempt: where a
    node would try again, the document says so (status -4 or -2). Ctrl-C and SIGTERM stop the program in its own way."""
    clock = clock or SystemClock()
    now = clock.now()
    document = model.new_task(LOCAL_QUEUE, parameters, now=now)
    document |= {
        "_id": os.urandom(12).hex(),
        "status": int(Status.CLAIMED),
        "node": LOCAL_NODE_ID,
        "claim": {"token": os.urandom(16).hex(), "at": now},
    }
    recorder = MemoryRecorder(document)
    site = local_site(clock)
    close_others_on_exec()

    async def perform() -> RunReport:
        workers = WorkerPool(site)
        around = Surroundings(
            machine_name=machine.Machine.this().name, recorder=recorder, clock=clock, site=site, workers=workers
        )
        run = Run(Task.from_document(document.copy()), plugin, around, listener=listener)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, run.stop, StopReason.CANCELLED)
        try:
            return await run.perform()
        finally:
            await workers.stop()

    report = asyncio.run(perform())
    document.pop("claim", None)
    return LocalResult(
        document=document,
        report=report,
        output={
            stream: b"".join(recorder.pieces.get(stream, ())) or str(document.get(stream, "")).encode()
            for stream in ("stdout", "stderr")
        },
    )

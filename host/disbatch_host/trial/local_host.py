"""Tasks without node and store: the very run of a node, with a document in memory in the place of the store's.

Responsible for: `disbatch-host exec`, the trials of `check`, and whatever else wants to try a plugin. Must not know:
the command line.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disbatch_host.clock import Clock, SystemClock
from disbatch_host.documents import records
from disbatch_host.documents.changes import OutputChunk, Place, RunChange
from disbatch_host.documents.records import Document, Task
from disbatch_host.plugin import environment, program
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.program import LaunchSite
from disbatch_host.process import machine
from disbatch_host.process.child import Child
from disbatch_host.process.interface import Command, Deadlines, ProcessEnd, StartError, StopReason, Stream
from disbatch_host.process.spawn import close_others_on_exec
from disbatch_host.run import attempt
from disbatch_host.run.attempt import Run, RunReport, Surroundings
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_protocol.manifest import Mode
from disbatch_protocol.status import Status
from disbatch_protocol.worker import WorkerConversation

LOCAL_NODE_ID = "local"  # what DISBATCH_NODE says where there is no node
LOCAL_QUEUE = "exec"

STOP_AGAIN_SECONDS = 0.1  # a program that was just being started when everything was to stop

Output = Callable[[Stream, bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResult:
    """What came of it: the task document as a node would have left it, and the whole output."""

    document: Document
    report: RunReport
    output: dict[str, bytes]  # by stream; the whole, where the document holds only the beginning
    follow_ups: Sequence[Document] = ()  # tasks that a node would have created
    was_over_time: bool = field(default=False)  # it was stopped by the caller's own limit

    @property
    def succeeded(self) -> bool:
        return bool(self.document["status"] == Status.CONCLUDED)

    @property
    def run(self) -> Mapping[str, Any]:
        run: Mapping[str, Any] = self.document.get("run", {})
        return run


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What a plugin would get, and how it would be started."""

    command: Command
    stdin: str  # with the parameters' secrets masked


class MemoryRecorder:
    """Applies changes to one document in memory; the guard is the store's own."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.pieces: dict[str, list[bytes]] = {}
        self.created: list[Document] = []

    def record(
        self, change: RunChange | None, chunks: Sequence[OutputChunk] = (), *, frees: Place | None = None
    ) -> asyncio.Future[bool]:
        for chunk in chunks:
            self.pieces.setdefault(chunk.stream, []).append(chunk.data)
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        answer.set_result(change is None or self._apply(change))
        return answer

    async def room(self) -> None:
        """It is all in memory anyway."""

    def _apply(self, change: RunChange) -> bool:
        if self.document["status"] not in change.statuses:
            return False
        self.document.update(change.set)
        for name in change.unset:
            self.document.pop(name, None)
        self.created += change.creates
        return True


@dataclass(slots=True)
class _Started:
    """What a host has started and what has not ended."""

    children: set[Child] = field(default_factory=set)
    is_over: bool = False  # nothing more is started


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _LocalSite(LaunchSite):
    """Knows what it has started, so that nothing of it is left behind."""

    started: _Started = field(default_factory=_Started)

    def child(
        self,
        command: Command,
        deadlines: Deadlines,
        *,
        receive: Callable[[Stream, bytes], None],
        ended: Callable[[ProcessEnd], None],
        closed: Callable[[Stream], None] | None = None,
    ) -> Child:
        if self.started.is_over:
            raise StartError("is not started any more: everything was to stop")

        def forget(end: ProcessEnd) -> None:
            self.started.children.discard(child)
            ended(end)

        child = Child(command, deadlines, self.poller, self.spawner, receive=receive, ended=forget, closed=closed)
        self.started.children.add(child)
        return child


class LocalHost:
    """Runs tasks one after the other or at once, within an event loop. Close it: it may have worker processes."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.interrupted_by: int | None = None  # the signal that was to end it
        self._again: asyncio.TimerHandle | None = None
        self._faults: list[str] = []
        self._clock = clock or SystemClock()
        self.site = _LocalSite(
            node_id=LOCAL_NODE_ID,
            local_clock=self._clock,
            host_environment=environment.host_environment(),
            temporary_directory=Path(tempfile.gettempdir()),
        )
        self.workers = WorkerPool(self.site, on_fault=self._faults.append)
        self._runs: set[Run] = set()

    async def close(self) -> None:
        """End the worker processes, and whatever else is left."""
        await self.workers.stop()
        for child in self.site.started.children:
            child.kill(StopReason.SHUTDOWN)
        while any(child.pid for child in self.site.started.children):  # those that were never started have none
            await asyncio.sleep(0.01)
        if self._again is not None:
            self._again.cancel()
        self.site.close()

    def stop(self) -> None:
        """Stop what runs, in each program's own way."""
        for run in self._runs:
            run.stop(StopReason.CANCELLED)

    def take_faults(self) -> list[str]:
        """Why worker processes with no task in hand had to be replaced, since the last time."""
        faults = self._faults.copy()
        self._faults.clear()
        return faults

    @asynccontextmanager
    async def interruptible(self) -> AsyncIterator[None]:
        """Within it, Ctrl-C, SIGTERM and SIGHUP stop every program in its own way, and a second one kills them; nothing
        is started after that. Closes the host: when it is left, nothing of what it has started is there any more."""
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
            numbers.append(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._interrupt, number)
        try:
            yield
        finally:
            try:
                await self.close()
            finally:
                for number in numbers:
                    loop.remove_signal_handler(number)

    def _interrupt(self, number: int) -> None:
        is_second = self.interrupted_by is not None
        self.interrupted_by = self.interrupted_by or number
        if is_second:
            for child in list(self.site.started.children):
                child.kill(StopReason.CANCELLED)
        else:
            self.stop()
            self._stop_children()

    def _stop_children(self) -> None:
        self.site.started.is_over = True
        for child in list(self.site.started.children):
            child.stop(StopReason.CANCELLED)
        self._again = asyncio.get_running_loop().call_later(STOP_AGAIN_SECONDS, self._stop_children)

    async def run(
        self,
        plugin: Plugin,
        parameters: Any,
        *,
        listener: Output | None = None,
        limit_seconds: float | None = None,
        **fields: Any,
    ) -> LocalResult:
        """Run one task to its end, as a node would. One attempt: where a node would try again, the document says so
        (status -4 or -2). `limit_seconds`: stop it after so long, whatever its manifest says. `fields`: free fields of
        the task document."""
        document = {**self._new_document(parameters), **fields}
        recorder = MemoryRecorder(document)
        run = Run(Task.from_document(document.copy()), plugin, self._around(recorder), listener=listener)
        over_time: list[bool] = []

        def stop() -> None:
            over_time.append(True)
            run.stop(StopReason.TIMEOUT)

        timer = asyncio.get_running_loop().call_later(limit_seconds, stop) if limit_seconds is not None else None
        self._runs.add(run)
        try:
            report = await run.perform()
        finally:
            self._runs.discard(run)
            if timer is not None:
                timer.cancel()
        document.pop("claim", None)
        return LocalResult(
            document=document,
            report=report,
            output={
                stream: b"".join(recorder.pieces.get(stream, ())) or str(document.get(stream, "")).encode()
                for stream in ("stdout", "stderr")
            },
            follow_ups=recorder.created,
            was_over_time=bool(over_time),
        )

    def describe(self, plugin: Plugin, parameters: Any) -> Input:
        """What a run would begin with. Nothing is started and nothing made: a work directory is only named. Raises
        StartError."""
        task = Task.from_document(self._new_document(plugin.schema.masked(parameters)))
        run = attempt.beginning(task, plugin, self._around(MemoryRecorder({})))
        stdin = attempt.input_line(task, plugin, run)
        manifest = plugin.manifest
        variables: dict[str, str] = {}
        if manifest.mode is Mode.ONESHOT:
            deadline = program.deadline_of(manifest, self.site)
            variables = environment.task_environment(
                task_id=str(task.id), queue=str(task.queue), attempt=task.next_attempt, deadline=deadline
            )
        else:
            talk = WorkerConversation()
            hello = talk.hello(host="disbatch-host", number=1)
            talk.receive(b'{"type":"ready","protocol":1}\n')
            stdin = hello + talk.hand_over(stdin, task_id=str(task.id), attempt=1, deadline=None)
        directory = self.site.temporary_directory / f"disbatch-{task.id}-…" if manifest.cwd == "work" else None
        command = program.command(plugin, self.site, account=None, work_directory=directory, variables=variables)
        return Input(command=command, stdin=stdin.decode())

    def _around(self, recorder: MemoryRecorder) -> Surroundings:
        return Surroundings(
            machine_name=machine.Machine.this().name,
            recorder=recorder,
            clock=self._clock,
            site=self.site,
            workers=self.workers,
            trust_seconds=math.inf,  # nobody else is there to give it to
        )

    def _new_document(self, parameters: Any) -> Document:
        now = self._clock.now()
        return {
            "_id": os.urandom(12).hex(),
            **records.new_task(LOCAL_QUEUE, parameters, now=now),
            "status": int(Status.CLAIMED),
            "node": LOCAL_NODE_ID,
            "claim": {"token": os.urandom(16).hex(), "at": now},
        }


def run_once(plugin: Plugin, parameters: Any, *, listener: Output | None = None) -> LocalResult:
    """Run one task in an event loop of its own. Ctrl-C, SIGTERM and SIGHUP stop the program in its own way, and so does
    an OSError of the listener, which is then raised: what it prints has nowhere to go."""
    close_others_on_exec()

    async def perform() -> LocalResult:
        host = LocalHost()
        failures: list[OSError] = []

        def receive(stream: Stream, data: bytes) -> None:
            if listener is None or failures:
                return
            try:
                listener(stream, data)
            except OSError as error:
                failures.append(error)
                host.stop()

        async with host.interruptible():
            result = await host.run(plugin, parameters, listener=receive)
        if failures:
            raise failures[0]
        return result

    return asyncio.run(perform())

"""Tasks without a node or a store: the very run of a node, with a document in memory instead of the store's.

Responsible for: `disbatch-host exec`, the trials of `check`, and anything else that tries a plugin. Must not know:
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
from disbatch_host.plugin.program import ProgramSite
from disbatch_host.process import machine
from disbatch_host.process.interface import (
    Process,
    ProcessListener,
    Start,
    StartError,
    StartListener,
    StopReason,
    Stream,
)
from disbatch_host.process.supervised import SupervisedHost
from disbatch_host.process.this_process import close_others_on_exec
from disbatch_host.run import modes, starting
from disbatch_host.run.attempt import Run
from disbatch_host.run.context import RunContext
from disbatch_host.run.report import RunReport
from disbatch_host.run.worker.pool import WorkerPool
from disbatch_protocol.status import Status
from disbatch_protocol.worker import WorkerConversation

LOCAL_NODE_ID = "local"  # the value of DISBATCH_NODE where there is no node
LOCAL_QUEUE = "exec"

REMOVAL_SECONDS = 30.0  # for work directories to be removed: a person waits, and a million files take some ten
END_POLL_SECONDS = 0.01  # between two checks whether killed processes are gone

Output = Callable[[Stream, bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResult:
    """The result of a run: the task document as a node would have left it, and the whole output."""

    document: Document
    report: RunReport
    output: dict[str, bytes]  # by stream; whole, even if the document holds only the beginning
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
    """The input that a plugin would get, and how it would be started."""

    start: Start
    stdin: str | None  # with the parameters' secrets masked; None: it is /dev/null


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

    async def wait_for_budget(self) -> None:
        """It is all in memory anyway."""

    def _apply(self, change: RunChange) -> bool:
        if self.document["status"] not in change.statuses:
            return False
        self.document.update(change.set)
        for name in change.unset:
            self.document.pop(name, None)
        self.created += change.creates
        return True


class StoppableHost:
    """A `ProcessHost` that can be told to start nothing more and to end everything that is running. Its supervisor,
    which `open` starts, ends with this process, however that ends, and ends what runs."""

    def __init__(self) -> None:
        self._host: SupervisedHost | None = None
        self._is_over = False

    async def open(self) -> None:
        """Twice is fine."""
        if self._host is None:
            self._host = SupervisedHost()
            await self._host.open()

    def begin(self, start: Start, listener: StartListener) -> Process:
        return self._checked().begin(start, listener)

    async def start(self, start: Start, listener: ProcessListener) -> Process:
        await self.open()
        return await self._checked().start(start, listener)

    def _checked(self) -> SupervisedHost:
        if self._is_over or self._host is None:
            raise StartError("was not started: everything was being stopped")
        return self._host

    def runs(self) -> Sequence[Process]:
        return () if self._host is None else self._host.runs()

    def why_not_now(self) -> str | None:
        return None if self._host is None else self._host.why_not_now()

    def stop_all(self, reason: StopReason) -> None:
        """Start nothing more, and stop all programs that run or are being started, each with its grace."""
        self._is_over = True
        for process in self.runs():
            process.stop(reason)

    async def end(self, reason: StopReason) -> None:
        """Kill all programs that run or are being started, and wait until they have ended."""
        self.kill_all(reason)
        while not all(process.has_ended for process in self.runs()):
            await asyncio.sleep(END_POLL_SECONDS)

    def kill_all(self, reason: StopReason) -> None:
        """Start nothing more, and kill all programs that run or are being started."""
        self._is_over = True
        for process in self.runs():
            process.kill(reason)

    def close(self) -> None:
        if self._host is not None:
            self._host.close()


class LocalHost:
    """Runs tasks one after the other or at once, within an event loop. Close it: it may have worker processes."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.interrupted_by: int | None = None  # the signal that asked it to end
        self._faults: list[str] = []
        self._clock = clock or SystemClock()
        self.processes = StoppableHost()
        self.site = ProgramSite(
            node_id=LOCAL_NODE_ID,
            local_clock=self._clock,
            host_environment=environment.host_environment(),
            temporary_directory=Path(tempfile.gettempdir()),
        )
        self.workers = WorkerPool(self.site, self.processes, on_fault=self._faults.append)
        self._runs: set[Run] = set()

    async def close(self) -> None:
        """End the worker processes, and anything else that is left."""
        await self.workers.stop()
        await self.processes.end(StopReason.SHUTDOWN)
        self.processes.close()
        await self.site.work_directories.finish(REMOVAL_SECONDS)

    def stop(self) -> None:
        """Stop the running programs, each in its own way."""
        for run in self._runs:
            run.stop(StopReason.CANCELLED)

    def take_faults(self) -> list[str]:
        """Why worker processes with no task in hand had to be replaced, since the last call."""
        faults = self._faults.copy()
        self._faults.clear()
        return faults

    @asynccontextmanager
    async def interruptible(self) -> AsyncIterator[None]:
        """Within it, Ctrl-C, SIGTERM and SIGHUP stop every program in its own way, and a second one kills them; nothing
        is started after that. Leaving it closes the host: nothing that it started is left then."""
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
            self.processes.kill_all(StopReason.CANCELLED)
        else:
            self.stop()
            self.processes.stop_all(StopReason.CANCELLED)

    async def run(
        self,
        plugin: Plugin,
        parameters: Any,
        *,
        listener: Output | None = None,
        limit_seconds: float | None = None,
        **fields: Any,
    ) -> LocalResult:
        """Run one task to its end, as a node would, but only one attempt: where a node would try again, the document
        says so (status -4 or -2). `limit_seconds`: stop it after that long, whatever its manifest says. `fields`: free
        fields of the task document."""
        await self.processes.open()
        document = {**self._new_document(parameters), **fields}
        recorder = MemoryRecorder(document)
        run = Run(Task.from_document(document.copy()), plugin, self._context(recorder), listener=listener)
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
        """The input that a run would begin with. Nothing is started and nothing made: a work directory is only named.
        Raises StartError."""
        task = Task.from_document(self._new_document(plugin.schema.masked(parameters)))
        secrets = plugin.schema.secrets(task.parameters)
        run = starting.run_fields(
            task, plugin, self._context(MemoryRecorder({})), now=self._clock.now(), secrets=secrets
        )
        stdin = starting.input_of(task, plugin, run)
        manifest = plugin.manifest
        variables: dict[str, str] = {}
        words: Sequence[str] = ()
        if not modes.needs_worker(plugin):
            deadline = program.deadline_of(manifest, self.site)
            variables = environment.task_environment(
                task_id=str(task.id), queue=str(task.queue), attempt=task.next_attempt, deadline=deadline
            )
            made = plugin.schema.made_of(task.parameters, secrets)
            if not made.faults:
                words, variables = made.words, {**variables, **made.variables}
        else:
            talk = WorkerConversation()
            hello = talk.hello(host="disbatch-host", number=1)
            talk.receive(b'{"type":"ready","protocol":1}\n')
            stdin = hello + talk.hand_over(stdin or b"", task_id=str(task.id), attempt=1, deadline=None)
        directory = self.site.temporary_directory / f"disbatch-{task.id}-…" if manifest.cwd == "work" else None
        start = Start(
            program=program.shared_of(plugin, self.site).program,
            variables=program.with_work_directory(variables, directory),
            words=[word.encode() for word in words],
            work_directory=directory,
        )
        return Input(start=start, stdin=None if stdin is None else stdin.decode())

    def _context(self, recorder: MemoryRecorder) -> RunContext:
        return RunContext(
            machine_name=machine.Machine.this().name,
            recorder=recorder,
            clock=self._clock,
            site=self.site,
            processes=self.processes,
            workers=self.workers,
            trust_seconds=math.inf,  # there is nobody else to give it to
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
    an OSError of the listener, which is then raised: its output has nowhere to go."""
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

"""What carries out a run, as the run sees it; and the one that starts a process for each: oneshot mode.

Responsible for: one interface for both modes, so that everything before and after (parameters, durable Running, output,
conclusion) is the same code; turning a process's end into the end of a run. Must not know: documents, stores, outcomes.

The life of an execution: `prepare` (nothing of the task has begun), then `start` or `abandon`, then `ended`.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from disbatch_host.plugin import environment, program
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.program import Launch, LaunchSite
from disbatch_host.process.child import Child
from disbatch_host.process.interface import ProcessEnd, StopReason, Stream
from disbatch_protocol.events import BadLine, Event, EventReader
from disbatch_protocol.outcome import Reason, RunEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The task, as far as whoever carries it out must know it."""

    task_id: str
    queue: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who hears what a run says while it runs."""

    receive: Callable[[Stream, bytes], None]  # stdout and stderr; descriptor 3 as it came, for whoever wants it raw
    hear: Callable[[Event | BadLine], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionEnd:
    """How it ended."""

    end: RunEnd
    facts: Mapping[str, Any] = field(repr=False)  # for `run` in the document
    was_killed: bool = False  # it had to be SIGKILL
    fault: str | None = None  # what the host has to say of it, where exit code and signal do not tell
    was_not_reached: bool = False  # worker mode: the process was gone before it had read the task
    is_process_lost: bool = False  # worker mode: the process ended by itself with the task in hand


class Execution(Protocol):
    """Carries out one run."""

    @property
    def process_facts(self) -> dict[str, Any]:
        """What is known of its process now, for `run` in the document; empty before there is one."""

    @property
    def work_directory(self) -> str | None:
        """The run's own directory, where it has one that is kept after a failure."""

    async def prepare(self) -> None:
        """Make ready what does not need the task. Raises StartError. May be cancelled."""

    def abandon(self) -> None:
        """Prepared, but nothing will be started, or `start` has raised."""

    async def start(self, task_line: bytes, listener: Listener) -> asyncio.Future[ExecutionEnd]:
        """Begin with the task. Raises StartError. The future is done when the run has ended."""

    def stop(self, reason: StopReason) -> None:
        """Ask it to end, with its grace."""

    def kill(self, reason: StopReason) -> None:
        """End it now."""

    def clean_up(self) -> None:
        """Remove what a successful run leaves behind."""


class OneshotExecution:
    """A process for one task."""

    def __init__(self, plugin: Plugin, site: LaunchSite, assignment: Assignment) -> None:
        self._plugin = plugin
        self._site = site
        self._assignment = assignment
        self._reader = EventReader()
        self._child: Child | None = None
        self._launch: Launch | None = None

    @property
    def process_facts(self) -> dict[str, Any]:
        return {} if self._child is None else {"pid": self._child.pid}

    @property
    def work_directory(self) -> str | None:
        has_one = self._launch is not None and self._launch.work_directory is not None
        return str(self._launch.work_directory) if has_one and self._launch is not None else None

    async def prepare(self) -> None:
        """Nothing: all that costs something is for the task alone."""

    def abandon(self) -> None:
        """Nothing was begun."""

    async def start(self, task_line: bytes, listener: Listener) -> asyncio.Future[ExecutionEnd]:
        manifest, assignment = self._plugin.manifest, self._assignment
        variables = environment.task_environment(
            task_id=assignment.task_id,
            queue=assignment.queue,
            attempt=assignment.attempt,
            deadline=program.deadline_of(manifest, self._site),
        )
        self._launch = prepared = program.prepare(
            self._plugin, self._site, name=assignment.task_id, variables=variables
        )
        ended: asyncio.Future[ExecutionEnd] = asyncio.get_running_loop().create_future()

        def receive(stream: Stream, data: bytes) -> None:
            listener.receive(stream, data)
            if stream is Stream.EVENTS:
                for heard in self._reader.feed(data):
                    listener.hear(heard)

        def finish(process_end: ProcessEnd) -> None:
            for heard in self._reader.finish():
                listener.hear(heard)
            end = RunEnd(
                reason=reason_of(process_end, Reason.EXITED),
                exit_code=process_end.exit_code,
                signal=process_end.signal,
            )
            ended.set_result(ExecutionEnd(end=end, facts=facts_of(process_end), was_killed=process_end.killed))

        limits = program.shared_of(self._plugin, self._site).deadlines
        try:
            self._child = await program.start(
                lambda: self._site.child(prepared.command, limits, receive=receive, ended=finish)
            )
        except BaseException:
            self.clean_up()
            raise
        self._child.write(task_line, close=True)
        return ended

    def stop(self, reason: StopReason) -> None:
        if self._child is not None:
            self._child.stop(reason)

    def kill(self, reason: StopReason) -> None:
        if self._child is not None:
            self._child.kill(reason)

    def clean_up(self) -> None:
        if self._launch is not None:
            self._launch.remove_work_directory()


def reason_of(process_end: ProcessEnd, by_exit: Reason) -> Reason:
    """Why a process ended: who stopped it, else its signal, else `by_exit`."""
    if process_end.stopped is not None:
        return Reason(process_end.stopped.value)
    return by_exit if process_end.signal is None else Reason.SIGNALED


def facts_of(process_end: ProcessEnd) -> dict[str, Any]:
    """What `run` says of the process."""
    facts: dict[str, Any] = {
        "cpu_seconds": round(process_end.cpu_seconds, 6),
        "peak_memory_bytes": process_end.peak_memory_bytes,
    }
    # The kernel's figure begins with the size of whoever started it (docs/decisions/0004): up to that, it is a bound.
    if process_end.peak_memory_bytes <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024:
        facts["peak_memory_is_bound"] = True
    # Only what is out of the ordinary is said.
    for name in ("stdin_unread", "output_held_open", "killed"):
        if getattr(process_end, name):
            facts[name] = True
    return facts

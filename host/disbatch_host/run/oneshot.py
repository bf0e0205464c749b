"""Oneshot mode: one process per task, which gets the task on its stdin and ends with it.

Responsible for: starting it with everything that the plugin contract promises, and passing on its output. Must not
know: documents, stores, outcomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from disbatch_host.plugin import environment, program
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.program import PreparedProgram, ProgramSite
from disbatch_host.plugin.work_directories import text_of
from disbatch_host.process.interface import Process, ProcessEnd, ProcessHost, Start, StopReason, Stream
from disbatch_host.run.execution import (
    Assignment,
    ExecutionEnd,
    HeardSoFar,
    Listener,
    facts_of,
    reason_of,
    start_program,
)
from disbatch_protocol.events import EventReader
from disbatch_protocol.outcome import Reason, RunEnd


class OneshotExecution:
    """See `execution.Execution`. It is its own process's listener."""

    def __init__(self, plugin: Plugin, site: ProgramSite, processes: ProcessHost, assignment: Assignment) -> None:
        self._plugin = plugin
        self._site = site
        self._processes = processes
        self._assignment = assignment
        self._reader = EventReader()
        self._heard = HeardSoFar()
        self._listener: Listener | None = None
        self._process: Process | None = None
        self._prepared: PreparedProgram | None = None
        self._end: asyncio.Future[ExecutionEnd] = asyncio.get_running_loop().create_future()

    @property
    def process_facts(self) -> dict[str, Any]:
        return {} if self._process is None else {"pid": self._process.pid}

    @property
    def pid_started(self) -> int | None:
        return None if self._process is None else self._process.pid_started

    @property
    def work_directory(self) -> str | None:
        directory = None if self._prepared is None else self._prepared.work_directory
        return None if directory is None else text_of(directory)

    async def start(self, task_input: bytes | None, listener: Listener) -> asyncio.Future[ExecutionEnd]:
        assignment = self._assignment
        variables = environment.task_environment(
            task_id=assignment.task_id,
            queue=assignment.queue,
            attempt=assignment.attempt,
            deadline=program.deadline_of(self._plugin.manifest, self._site),
        )
        self._listener = listener
        self._prepared = prepared = program.prepare(
            self._plugin, self._site, name=assignment.task_id, variables=variables
        )
        start = Start(
            program=prepared.program,
            variables=prepared.variables,
            work_directory=prepared.work_directory,
            deadlines=program.shared_of(self._plugin, self._site).deadlines,
            note=assignment.note,
            stdin=task_input,
        )
        try:
            self._process = await start_program(self._processes, start, self)
        except BaseException:
            self.clean_up()
            raise
        return self._end

    def said(self, stream: Stream, offset: int, data: bytes) -> None:
        assert self._listener is not None
        data = self._heard.new_part(stream, offset, data)
        self._listener.receive(stream, data)
        if stream is Stream.EVENTS:
            for heard in self._reader.feed(data):
                self._listener.hear(heard)

    def closed(self, stream: Stream) -> None:
        """Allowed."""

    def ended(self, end: ProcessEnd) -> None:
        assert self._listener is not None
        for heard in self._reader.finish():
            self._listener.hear(heard)
        run_end = RunEnd(reason=reason_of(end, Reason.EXITED), exit_code=end.exit_code, signal=end.signal)
        self._end.set_result(
            ExecutionEnd(end=run_end, facts=facts_of(end), killed_after_seconds=end.killed_after_seconds)
        )

    def stop(self, reason: StopReason) -> None:
        if self._process is not None:
            self._process.stop(reason)

    def kill(self, reason: StopReason) -> None:
        if self._process is not None:
            self._process.kill(reason)

    def acknowledge(self, counts: Mapping[Stream, int]) -> None:
        if self._process is not None:
            self._process.acknowledge(counts)

    def settle(self) -> None:
        if self._process is not None:
            self._process.forget()
            self._process = None  # each holds the other, which only the garbage collector would free

    def clean_up(self, on_left: Callable[[str], None] | None = None) -> None:
        if self._prepared is not None:
            self._prepared.remove_work_directory(on_left)

"""Oneshot mode: one process per task, which gets the task on its stdin and ends with it.

Responsible for: starting it with everything that the plugin contract promises, and passing on its output. Must not
know: documents, stores, outcomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from disbatch_host.plugin import environment, program
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.program import PreparedProgram, ProgramSite
from disbatch_host.plugin.work_directories import text_of
from disbatch_host.process.interface import (
    Process,
    ProcessEnd,
    ProcessHost,
    Start,
    StartError,
    StartListener,
    StopReason,
    Stream,
)
from disbatch_host.run import notes
from disbatch_host.run.execution import (
    BUSY_PROGRAM_SECONDS,
    BUSY_PROGRAM_TRIES,
    Assignment,
    Course,
    ExecutionEnd,
    HeardSoFar,
    Listener,
    facts_of,
    is_unseen,
    reason_of,
)
from disbatch_protocol.events import BadLine, EventReader
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
        self._course: Course | None = None
        self._process: Process | None = None
        self._prepared: PreparedProgram | None = None
        self._task_input: bytes | None = None  # until it has started
        self._tries_left = BUSY_PROGRAM_TRIES
        self._events_before = 0  # how far they were heard when something was acknowledged last
        self._has_begun = False
        self._stop_when_begun: Callable[[Process], None] | None = None
        self._adopt: Callable[[StartListener], Process] | None = None  # if an earlier node has started it

    @classmethod
    def going_on(
        cls,
        plugin: Plugin,
        site: ProgramSite,
        processes: ProcessHost,
        adopt: Callable[[StartListener], Process],
        *,
        work_directory: Path | None,
        event_bytes: int,
    ) -> OneshotExecution:
        """The execution of a process that an earlier node has started: `adopt` gives it. `event_bytes`: of descriptor
        3, whose effects the document has, so that they are not heard again."""
        one = cls(plugin, site, processes, Assignment(task_id="", queue="", attempt=1, note=b""))
        one._heard = HeardSoFar({**dict.fromkeys(Stream, 0), Stream.EVENTS: event_bytes})
        one._adopt = adopt
        one._tries_left = 0
        one._prepared = program.prepared_earlier(plugin, site, work_directory)
        return one

    @property
    def process_facts(self) -> dict[str, Any]:
        pid = 0 if self._process is None else self._process.pid
        return {"pid": pid} if pid else {}  # its supervisor may have ended before it could tell

    @property
    def pid_started(self) -> int | None:
        return None if self._process is None else self._process.pid_started

    @property
    def event_bytes(self) -> int:
        return self._heard.end(Stream.EVENTS) - self._reader.incomplete_bytes

    @property
    def work_directory(self) -> str | None:
        directory = None if self._prepared is None else self._prepared.work_directory
        return None if directory is None else text_of(directory)

    def begin(self, task_input: bytes | None, listener: Listener, course: Course) -> None:
        self._listener, self._course, self._task_input = listener, course, task_input
        if self._adopt is not None:
            self._process = self._adopt(self)
            return
        assignment = self._assignment
        variables = environment.task_environment(
            task_id=assignment.task_id,
            queue=assignment.queue,
            attempt=assignment.attempt,
            deadline=program.deadline_of(self._plugin.manifest, self._site),
        )
        if assignment.variables:
            variables |= assignment.variables
        self._prepared = program.prepare(self._plugin, self._site, name=assignment.task_id, variables=variables)
        try:
            self._try()
        except BaseException:
            self.clean_up()
            self._forget_listeners()
            raise

    def _try(self) -> None:
        assert self._prepared is not None
        self._tries_left -= 1
        directory, note = self._prepared.work_directory, self._assignment.note
        start = Start(
            program=self._prepared.program,
            variables=self._prepared.variables,
            words=self._assignment.words,
            work_directory=directory,
            deadlines=self._prepared.deadlines,
            note=note if directory is None else notes.with_facts(note, work_directory=str(directory)),
            stdin=self._task_input,
            trust=self._assignment.trust,
        )
        self._process = self._processes.begin(start, self)

    def _try_again(self) -> None:
        try:
            self._try()
        except Exception as error:
            self._give_up(error)

    def begun(self) -> None:
        assert self._process is not None and self._course is not None
        self._has_begun, self._task_input = True, None
        if self._stop_when_begun is not None:
            self._stop_when_begun(self._process)
        self._course.started()

    def not_started(self, error: StartError) -> None:
        if error.is_busy and self._tries_left:
            asyncio.get_running_loop().call_later(BUSY_PROGRAM_SECONDS, self._try_again)
        else:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        assert self._course is not None
        course, self._process = self._course, None
        self.clean_up()
        self._forget_listeners()
        course.not_started(error)

    def _forget_listeners(self) -> None:
        """They hold this execution as well, and only the garbage collector would free them."""
        self._listener = self._course = None

    def said(self, stream: Stream, offset: int, data: bytes) -> None:
        assert self._listener is not None
        missing, data = self._heard.new_part(stream, offset, data)
        if missing:
            self._miss(self._listener, stream, missing)
        self._listener.receive(stream, data)
        if stream is Stream.EVENTS:
            for heard in self._reader.feed(data):
                self._listener.hear(heard)

    def _miss(self, listener: Listener, stream: Stream, count: int) -> None:
        if stream is Stream.EVENTS:
            listener.miss(stream, count)
            listener.hear(BadLine(start=b"", message=f"{count} bytes of descriptor 3 are lost: nobody has kept them"))
        else:
            listener.miss(stream, count)

    def closed(self, stream: Stream) -> None:
        """Allowed."""

    def ended(self, end: ProcessEnd) -> None:
        assert self._listener is not None and self._course is not None
        for heard in self._reader.finish():
            self._listener.hear(heard)
        run_end = RunEnd(reason=reason_of(end, Reason.EXITED), exit_code=end.exit_code, signal=end.signal)
        self._course.ended(
            ExecutionEnd(
                end=run_end,
                facts=facts_of(end),
                killed_after_seconds=end.killed_after_seconds,
                hit_memory_limit=end.hit_memory_limit,
                is_unseen=is_unseen(end),
                why_unseen=end.why_unseen,
                seconds=None if self._adopt is None or end.is_unseen else end.seconds,
                age_seconds=end.age_seconds,
            )
        )

    def stop(self, reason: StopReason) -> None:
        if self._has_begun and self._process is not None:
            self._process.stop(reason)
        elif self._stop_when_begun is None:
            self._stop_when_begun = lambda process: process.stop(reason)

    def kill(self, reason: StopReason) -> None:
        if self._has_begun and self._process is not None:
            self._process.kill(reason)
        else:
            self._stop_when_begun = lambda process: process.kill(reason)

    def follow(self) -> bool:
        return self._process is not None and self._process.follow()

    def acknowledge(self, counts: Mapping[Stream, int]) -> None:
        if self._process is None:
            return
        # What was heard before the last time is in what the store has got since then.
        self._process.acknowledge({**counts, Stream.EVENTS: self._events_before})
        self._events_before = self.event_bytes

    def settle(self) -> None:
        if self._process is not None:
            self._process.forget()
            self._process = None
        self._forget_listeners()

    def clean_up(self, on_left: Callable[[str], None] | None = None) -> None:
        if self._prepared is not None:
            self._prepared.remove_work_directory(on_left)

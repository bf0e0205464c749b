"""One worker process: its conversation, its life, and the task that it has in hand.

Responsible for: handing tasks to it and reading its answers (`disbatch_protocol.worker` knows whose turn it is),
attributing output to the task in hand, ending it. Must not know: other processes, documents, stores, outcomes.

Rules:
1. Everything that it writes while it has a task belongs to that task; the rest belongs to nobody and only serves to
   explain why it could not be started. The process host reports output before the `done` that follows it.
2. A process that has been stopped, has died, has closed descriptor 3 or has broken the protocol gets no further
   task.
3. The end of the process is acknowledged once the ends of all its tasks are.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from disbatch_host import __version__, logs
from disbatch_host.plugin import program
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.plugin.program import PreparedProgram, ProgramSite
from disbatch_host.process.interface import Process, ProcessEnd, ProcessHost, Start, StartError, StopReason, Stream
from disbatch_host.run import notes
from disbatch_host.run.execution import Assignment, HeardSoFar, Listener, start_program
from disbatch_host.run.worker.hand import TaskInHand
from disbatch_protocol.events import BadLine, Done, Ready
from disbatch_protocol.quantities import format_duration
from disbatch_protocol.worker import Broken, Heard, WorkerConversation, WorkerState

log = logging.getLogger(__name__)

_RESERVED_SECONDS = 1.0  # by then a run has come, or it is no longer reserved
_ENDING_SECONDS = 2.0  # a process that ends closes its descriptors first; one alive after that stays silent
_LAST_WORDS_MAX = 4096  # bytes kept of a process's output while it has no task


class Worker:
    """A `ProcessListener` with a life of its own."""

    def __init__(
        self,
        plugin: Plugin,
        site: ProgramSite,
        processes: ProcessHost,
        *,
        number: int,
        on_end: Callable[[Worker], object],
        on_fault: Callable[[str], object] | None,
    ) -> None:
        self.plugin = plugin
        self.number = number  # among the processes of its class on this node, from 1
        self.tasks = 0  # the number of tasks that it was given
        self.idle_since = 0.0
        self.is_reserved = False  # for a run that may come shortly
        self.exit_code: int | None = None  # once it has ended, unless by a signal
        self._site = site
        self._processes = processes
        self._on_end = on_end
        self._on_fault = on_fault
        self._loop = asyncio.get_running_loop()
        self._conversation = WorkerConversation(has_read_task=self._has_read_task)
        self._heard = HeardSoFar()
        self._process: Process | None = None
        self._prepared: PreparedProgram | None = None
        self._started = self._loop.time()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()  # done when the process has ended
        self._in_hand: TaskInHand | None = None
        self._unsettled: deque[TaskInHand] = deque()  # whose end is not acknowledged, in the order of their output
        self._is_taken = True  # by a run that has not handed over its task yet
        self._is_retiring = False
        self._is_mute = False  # it has closed descriptor 3
        self._last_words = b""
        self._idle_timer: asyncio.TimerHandle | None = None
        self._retire_timer: asyncio.TimerHandle | None = None
        self._mute_timer: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def pid_started(self) -> int | None:
        """See `Process.pid_started`."""
        return None if self._process is None else self._process.pid_started

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that identify the process, so that it can be found and killed when this node is gone."""
        facts = {"pid": self.pid, "worker": self.number}
        pid_started = self.pid_started
        return facts if pid_started is None else {**facts, "pid_started": pid_started}

    @property
    def has_task(self) -> bool:
        return self._in_hand is not None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and not self.gone.done()

    @property
    def is_idle(self) -> bool:
        """Whether it can be taken now."""
        return not self.is_reserved and not self._is_taken and self.can_take_task

    @property
    def can_take_task(self) -> bool:
        """Whether it can be given the task of the run that took it."""
        return (
            self._process is not None
            and not self.gone.done()
            and self._process.is_running
            and not self._is_mute
            and not self._is_retiring  # its stdin is closed: it would end without seeing the task
            and self._conversation.state is WorkerState.IDLE
        )

    @property
    def should_retire(self) -> bool:
        """Whether it has done enough tasks, is old, or too large."""
        rules = self.plugin.manifest.worker
        if self.tasks >= rules.max_tasks:
            return True
        if rules.max_age_seconds is not None and self._loop.time() - self._started >= rules.max_age_seconds:
            return True
        if rules.max_memory_bytes is None or self._process is None:
            return False
        return self._process.usage().memory_bytes > rules.max_memory_bytes

    async def start(self) -> None:
        """Start the process and wait until it is ready. Raises StartError."""
        manifest = self.plugin.manifest
        self._prepared = prepared = program.prepare(self.plugin, self._site, name=manifest.name[:20], variables={})
        start = Start(
            program=prepared.program,
            variables=prepared.variables,
            work_directory=prepared.work_directory,
            deadlines=program.shared_of(self.plugin, self._site).idle_deadlines,
            note=notes.of_process(prepared.work_directory),
            stdin=self._conversation.hello(host=f"disbatch-host {__version__}", number=self.number),
            keeps_stdin_open=True,
        )
        try:
            self._process = await start_program(self._processes, start, self)
        except BaseException:
            prepared.remove_work_directory()
            raise
        seconds = manifest.worker.start_timeout_seconds
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), seconds)
        except TimeoutError:
            raise StartError(
                f"was not ready: expected a ready event on descriptor 3 within {format_duration(seconds)}, "
                f"found none{self._said_last()}"
            ) from None

    def take(self) -> None:
        """A run chose it."""
        self._is_taken = True
        self.is_reserved = False

    def rest(self) -> None:
        """Let it wait for its next task, for a while."""
        if not self.is_alive:
            return
        self._is_taken = False
        self.idle_since = self._loop.time()
        self._last_words = b""
        if self._idle_timer is None:
            self._look_at(self.idle_since + self.plugin.manifest.worker.idle_exit_seconds)

    def _look_at(self, when: float) -> None:
        self._idle_timer = self._loop.call_at(when, self._retire_unused)

    def _retire_unused(self) -> None:
        """One timer for all its rests: making and cancelling one for each would cost more than the look."""
        self._idle_timer = None
        if self._is_taken:
            return  # its next rest sets the timer
        now, until = self._loop.time(), self.idle_since + self.plugin.manifest.worker.idle_exit_seconds
        if until > now:
            self._look_at(until)
        elif self.is_reserved:  # a task is on its way
            self._look_at(now + _RESERVED_SECONDS)
        else:
            self.retire()

    def retire(self) -> None:
        """Let it end: end of file, then, if it is still there after the grace, the stop signal."""
        if self._is_retiring or not self.is_alive or self._process is None:
            return
        self._is_retiring = True
        self._process.close_stdin()
        grace_seconds = self.plugin.manifest.kill_grace_seconds
        self._retire_timer = self._loop.call_later(grace_seconds, self._process.stop, StopReason.REPLACED)

    def stop(self, reason: StopReason) -> None:
        if self._process is not None:
            self._process.stop(reason)

    def kill(self, reason: StopReason) -> None:
        if self._process is not None:
            self._process.kill(reason)

    def _has_read_task(self) -> bool:
        # A parser that reads byte by byte stops at the last brace, and leaves the line feed for later.
        return self._process is not None and self._process.stdin_left_bytes <= len(b"\n")

    def hand_over(self, task_line: bytes, assignment: Assignment, listener: Listener) -> TaskInHand | None:
        """Give it a task; None if it can no longer take one."""
        if self._process is None or not self.can_take_task:
            return None
        shared = program.shared_of(self.plugin, self._site)
        line = self._conversation.hand_over(
            task_line,
            task_id=assignment.task_id,
            attempt=assignment.attempt,
            deadline=program.deadline_of(self.plugin.manifest, self._site),
        )
        self.tasks += 1
        begins_at = self._heard.offsets()
        note = notes.with_facts(assignment.note, line_bytes=len(line), at=list(begins_at.values()))
        earlier = [one.note for one in self._unsettled if not one.is_settled]
        self._in_hand = task = TaskInHand(self._process, listener, line_size=len(line), begins_at=begins_at, note=note)
        self._unsettled.append(task)
        self._process.hand_over(notes.behind(note, earlier), line, shared.deadlines, assignment.trust)
        return task

    def settle(self, task: TaskInHand) -> None:
        """The store has the end of this task, or never will."""
        task.is_settled = True
        while self._unsettled and self._unsettled[0].is_settled:
            self._unsettled.popleft().acknowledge_end()
        self._forget_when_settled()

    def _forget_when_settled(self) -> None:
        if self._process is not None and self.gone.done() and not self._unsettled:
            self._process.forget()

    def said(self, stream: Stream, offset: int, data: bytes) -> None:
        missing, data = self._heard.new_part(stream, offset, data)
        if self._in_hand is not None:
            if missing and stream is not Stream.EVENTS:
                self._in_hand.listener.miss(stream, missing)
            self._in_hand.listener.receive(stream, data)
        if stream is Stream.EVENTS:
            for heard in self._conversation.receive(data):
                self._take_heard(heard)
        elif self._in_hand is None:
            self._last_words = (self._last_words + data)[-_LAST_WORDS_MAX:]

    def closed(self, stream: Stream) -> None:
        """Either nothing more can be read from it, or it is just ending."""
        if stream is Stream.EVENTS:
            for heard in self._conversation.finish():
                self._take_heard(heard)
            self._is_mute = True
            self._mute_timer = self._loop.call_later(_ENDING_SECONDS, self._break_mute)

    def ended(self, end: ProcessEnd) -> None:
        self.exit_code = end.exit_code
        for heard in self._conversation.finish():
            self._take_heard(heard)
        for timer in (self._idle_timer, self._retire_timer, self._mute_timer):
            if timer is not None:
                timer.cancel()
        was_ready = self._ready.done() and self._ready.exception() is None
        if not self._ready.done():
            why = f"it {_how(end)} before it had sent a ready event on descriptor 3{self._said_last()}"
            self._ready.set_exception(StartError(f"was not ready: {why}"))
            self._ready.exception()  # perhaps nobody is waiting any more
        task, self._in_hand = self._in_hand, None
        if task is not None:
            task.end_with(end, ends_at=self._heard.offsets())
        elif was_ready and end.exit_code != 0 and end.stopped is None:
            log.warning(
                "plugin %s: an idle worker process (%d) %s%s",
                self.plugin.name, self.pid, _how(end), self._said_last(),
                extra=self._log_ids,
            )  # fmt: skip
        if self._prepared is not None:
            self._prepared.remove_work_directory()
        self.gone.set_result(None)
        self._forget_when_settled()
        self._on_end(self)

    def _break_mute(self) -> None:
        is_ending = self._process is None or not self._process.is_running or self._process.stopped is not None
        if not is_ending and (self._in_hand is not None or not self._is_retiring):
            self._break("it closed descriptor 3, the only way it can report anything")

    def _take_heard(self, heard: Heard) -> None:
        match heard:
            case Broken(message=message):
                self._break(message)
            case Ready() if not self._ready.done():
                self._ready.set_result(None)
            case Done(exit_code=exit_code):
                self._finish_task(exit_code)
            case _ if self._in_hand is not None:
                self._in_hand.listener.hear(heard)
            case BadLine(message=message):
                log.warning(
                    "plugin %s: worker process %d: %s", self.plugin.name, self.pid, message, extra=self._log_ids
                )

    def _finish_task(self, exit_code: int | None) -> None:
        task = self._in_hand
        if task is None or self._process is None or self._process.stopped is not None:
            return  # it is being stopped: that is how this task ends, whatever the process still says
        self._in_hand = None
        if self._process.is_running:
            self._process.limit(program.shared_of(self.plugin, self._site).idle_deadlines)
        task.end_done(exit_code, ends_at=self._heard.offsets())

    def _break(self, message: str) -> None:
        log.error(
            "plugin %s: worker process %d is replaced: %s", self.plugin.name, self.pid, message, extra=self._log_ids
        )
        if not self._ready.done():
            self._ready.set_exception(StartError(f"was not ready: {message}"))
            self._ready.exception()
        if self._in_hand is not None:
            self._in_hand.fault = message
        elif self._on_fault is not None:
            self._on_fault(message)
        self.kill(StopReason.REPLACED)

    @property
    def _log_ids(self) -> dict[str, Any]:
        return logs.ids(class_name=self.plugin.name, pid=self.pid)

    def _said_last(self) -> str:
        lines = self._last_words.decode("utf-8", "replace").strip().splitlines()
        return f"; its last words: {lines[-1][:500]}" if lines else ""


def _how(process_end: ProcessEnd) -> str:
    if process_end.is_unseen:
        return "was ended with the supervisor of its runs"
    if process_end.signal is not None:
        return f"was ended by signal {process_end.signal}"
    return f"ended with exit code {process_end.exit_code}"

"""One run: from a claimed task to its durable end.

Responsible for: the order of its steps, and stopping it. Must not know: how many runs there are, which queue is next,
which store is behind the recorder; what each step makes of the document (`starting`, `recording`, `ending`).

The steps of a run, in order; each waits for the one before it to be durable if a promise depends on it:

    parameters fit? ── no ──────────────────────────────────────► concluded without a start
    record Running ─── refused: another node owns the task ─────► nothing was started
    claim too old to trust? confirm in the store ─ refused ────────► nothing was started
    start the program ─ impossible ─────────────────────────────► back to the queue, counted against the class
                      ─ impossible with this task ──────────────► concluded as failed, `host_error`
    pass on output, pid ─ refused: the task was taken over ─────► stop the program, say so, write nothing more
    the program ended: record the end (guarded, once), then let the process host forget it
    have its work directory removed, if it succeeded

A run is a compartment: whatever fails in one of these steps that nobody expected, the program is ended, and the task is
concluded as failed (`host_error`).

A run goes from step to step by callbacks. Only what has to wait for something in between is a coroutine (`_go_on`): a
task that has to be prepared before it is Running, and any end but that of a program which ended by itself, said little,
and whose end the store has taken. The run of a short program that was started with its claim needs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import TracebackType
from typing import Any

from disbatch_host.documents.changes import RunKey
from disbatch_host.documents.records import KEEP_ATTEMPTS, Document, Task
from disbatch_host.errors import StoreUnreachableError
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import StartError, StopReason, Stream
from disbatch_host.run import ending, modes, starting
from disbatch_host.run.adopted import Adopted
from disbatch_host.run.closing import Closing
from disbatch_host.run.context import RunContext
from disbatch_host.run.ending import Ending
from disbatch_host.run.execution import Execution, ExecutionEnd
from disbatch_host.run.preparation import Preparation
from disbatch_host.run.recording import Recording
from disbatch_host.run.report import RunReport, RunResult
from disbatch_host.run.state import RunState
from disbatch_host.run.worker.process import Worker
from disbatch_protocol.outcome import Reason
from disbatch_protocol.status import Status

OnDone = Callable[["Run", RunReport | Exception], None]

_ENDS_BY_ITSELF = frozenset({Reason.EXITED, Reason.SIGNALED, Reason.DONE})
_KILLED_SECONDS = 10.0  # for a program to be gone that is killed because the host failed; only a stuck one takes longer


class Run:
    """One attempt at one task."""

    def __init__(
        self,
        task: Task,
        plugin: Plugin,
        context: RunContext,
        *,
        running: Document | None = None,
        worker: Worker | None = None,
        asked_at: float | None = None,
        listener: Callable[[Stream, bytes], None] | None = None,
        on_place_free: Callable[[Run], None] | None = None,
        adopted: Adopted | None = None,
        keep_attempts: int = KEEP_ATTEMPTS,
    ) -> None:
        """`running`: `run` as it is in the task if that is Running already; else the task is Claimed. `worker`: the
        process reserved for it. `asked_at`: when the store was asked for it, in seconds since boot. `adopted`: it goes
        on with what an earlier node has started. `keep_attempts`: of its queue, where the task is not Running yet."""
        self.plugin = plugin
        self._context = context
        self._loop = asyncio.get_running_loop()
        key = RunKey(task.id, context.site.node_id, task.token)
        written = None if adopted is None else adopted.text_bytes
        spools = context.site.temporary_directory
        self._state = RunState(
            task, plugin, key, running or {}, spool_directory=spools, written=written, keep_attempts=keep_attempts
        )
        self._recording = Recording(
            self._state,
            context.recorder,
            context.clock,
            pace=context.news,
            first_news=context.first_news,
            listener=listener,
        )
        on_free = None if on_place_free is None else lambda: on_place_free(self)
        self._closing = Closing(self._state, context, on_free)
        if adopted is not None:
            self._closing.began -= adopted.age_seconds
        self._preparation = Preparation(
            self._state, context, self._closing, is_running=running is not None, worker=worker, asked_at=asked_at
        )
        # Once it is begun, until it is settled.
        self._execution: Execution | None = None if adopted is None else adopted.execution
        self._has_program = False
        self._program_ended: asyncio.Future[None] | None = None  # where somebody waits for that
        self._steps: asyncio.Task[None] | None = None
        self._on_done: OnDone | None = None
        self._is_lost = False
        self._is_failing = False

    @property
    def holds_place(self) -> bool:
        """Whether it counts as one of those that run at once."""
        return self._closing.holds_place

    @property
    def has_program(self) -> bool:
        """Whether its program is running."""
        return self._has_program

    @property
    def task(self) -> Task:
        return self._state.task

    @property
    def log_ids(self) -> dict[str, Any]:
        """The `extra=` of log calls about it."""
        return self._state.log_ids

    def stop(self, reason: StopReason) -> None:
        """Stop the program, with its grace; before its start: do not start it."""
        if self._execution is not None:
            self._execution.stop(reason)
        else:
            self._preparation.stop(reason)

    def cancel(self, request: Mapping[str, Any]) -> None:
        """Stop it because somebody wants that; `request` says who, when and why. Asking twice changes nothing."""
        if self._state.cancel is None:
            self._state.cancel = request
            self.stop(StopReason.CANCELLED)

    def kill(self, reason: StopReason) -> None:
        """Stop the program at once."""
        if self._execution is not None:
            self._execution.kill(reason)
        else:
            self._preparation.stop(reason)

    def hold_back(self, *, at_once: bool = False) -> None:
        """Do not start it any more, but let it run if it has been started: the node is stopping. See `Preparation`."""
        self._preparation.hold_back(at_once=at_once)

    async def perform(self) -> RunReport:
        """Carry the task from Claimed to its end. Raises StoreError if the end could not be recorded."""
        done: asyncio.Future[RunReport] = self._loop.create_future()

        def on_done(_: Run, result: RunReport | Exception) -> None:
            if done.done():
                return
            if isinstance(result, Exception):
                done.set_exception(result)
            else:
                done.set_result(result)

        self.begin(on_done)
        try:
            return await done
        finally:
            if self._steps is not None and not done.done():
                self._steps.cancel()

    def begin(self, on_done: OnDone) -> None:
        """Begin to carry the task from Claimed to its end. `on_done` is called once, with the report, or with the
        StoreError for which the end could not be recorded."""
        self._on_done = on_done
        if self._preparation.is_needed and self._execution is None:
            self._go_on(self._prepare_and_start())
        else:
            self._start()

    def _go_on(self, steps: Coroutine[Any, Any, RunReport | None]) -> None:
        """Go on with something that has to wait. It returns the report, or None if callbacks go on after it."""
        self._steps = self._loop.create_task(self._guarded(steps))

    async def _guarded(self, steps: Coroutine[Any, Any, RunReport | None]) -> None:
        result: RunReport | Exception | None
        try:
            try:
                result = await steps
            except StoreUnreachableError:
                raise
            except Exception as error:
                result = await self._fail(error)
        except Exception as error:
            result = error
        if result is not None:
            self._finish(result)

    def _finish(self, result: RunReport | Exception) -> None:
        self._recording.stop()
        self._closing.close()
        self._state.close()
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(self, result)

    async def _prepare_and_start(self) -> RunReport | None:
        report = await self._preparation.prepare()
        if report is None:
            self._start()
        return report

    def _start(self) -> None:
        """Start the program with its task; `started` or `not_started` is told."""
        context, state = self._context, self._state
        try:
            if self._execution is not None:  # it goes on: it has had its input
                return self._execution.begin(None, self._recording, self)
            line = starting.input_of(self.task, self.plugin, state.run, extended_json=context.extended_json)
            assignment = starting.assignment_of(self.task, self.plugin, state.run, self._preparation.trust)
            self._execution = modes.execution_of(self.plugin, assignment, context, self._preparation.take_worker())
            if self._preparation.stop_asked is not None:  # when it was Running already
                self._execution.stop(self._preparation.stop_asked)
            self._execution.begin(line, self._recording, self)
        except Exception as error:
            self.not_started(error)

    def started(self) -> None:
        """See `execution.Course`."""
        execution = self._execution
        assert execution is not None
        try:
            self._has_program = True
            facts = execution.process_facts
            if facts.get("pid_started") != self._state.run.get("pid_started"):
                self._state.is_pid_written = False  # a different process from the one that was expected
            self._state.run |= facts
            self._recording.start(execution, on_lost=self._lose_task)
        except Exception as error:
            self._go_on(self._fail(error))

    def not_started(self, error: Exception) -> None:
        """See `execution.Course`."""
        self._execution = None
        if isinstance(error, StartError) and error.is_too_late:
            self._preparation.doubt()
            self._go_on(self._prepare_and_start())
        elif isinstance(error, StartError):
            self._go_on(self._closing.record_unstarted(error, left=Status.RUNNING))
        else:
            self._go_on(self._fail(error))

    def ended(self, end: ExecutionEnd) -> None:
        """See `execution.Course`."""
        execution = self._execution
        self._has_program = False
        if self._program_ended is not None and not self._program_ended.done():
            self._program_ended.set_result(None)
        if execution is None or self._is_failing:
            return
        try:
            if self._is_plain(end):
                self._recording.finish_small()
                found = self._ending_of(execution, end)
                answer = self._closing.send(found)
                answer.add_done_callback(partial(self._conclude_plainly, execution, end, found))
                return
        except Exception as error:
            self._go_on(self._fail(error))
            return
        self._go_on(self._record_end(execution, end))

    def _is_plain(self, end: ExecutionEnd) -> bool:
        return (
            end.end.reason in _ENDS_BY_ITSELF
            and not end.was_not_reached
            and not self._is_lost
            and self._recording.is_small
        )

    def _conclude_plainly(
        self, execution: Execution, end: ExecutionEnd, found: Ending, answer: asyncio.Future[bool]
    ) -> None:
        if answer.cancelled() or answer.exception() is not None or not answer.result():
            self._go_on(self._record_answered(execution, end, found, answer))
            return
        try:
            report = self._concluded(execution, end, found, self._closing.report(found))
            self._settle(execution)
        except Exception as error:
            self._go_on(self._fail(error))
        else:
            self._finish(report)

    async def _lose_task(self) -> None:
        """The task is no longer this run's: this process was away for too long, or a person took it back or deleted
        it."""
        self._is_lost = True
        self.stop(StopReason.LOST)
        await self._closing.say_whose("its process is stopped, nothing more is recorded")

    async def _fail(self, error: Exception) -> RunReport:
        """The task cannot be run, or something failed that nobody expected."""
        self._is_failing = True
        self._preparation.release_worker()
        execution = self._execution
        if execution is not None and self._has_program:
            self._program_ended = self._loop.create_future()
            execution.kill(StopReason.LOST)
            await asyncio.wait([self._program_ended], timeout=_KILLED_SECONDS)
        with _Then(self._settle, execution):
            return await self._closing.record_host_error(error)

    async def _record_end(self, execution: Execution, end: ExecutionEnd) -> RunReport:
        with _Then(self._settle, execution):
            await self._recording.finish()
            if self._is_lost or (end.end.reason is Reason.LOST and not end.is_unseen):
                execution.clean_up()
                return RunReport(result=RunResult.REFUSED)
            if end.was_not_reached:
                why = "was gone before it had read its task; a new one will be started"
                return await self._closing.record_unstarted(StartError(why), left=Status.RUNNING)
            await self._recording.record_pieces()
            found = self._ending_of(execution, end)
            return self._concluded(execution, end, found, await self._closing.record(found))

    async def _record_answered(
        self, execution: Execution, end: ExecutionEnd, found: Ending, answer: asyncio.Future[bool]
    ) -> RunReport:
        """The same for a plain end that the store has not taken."""
        with _Then(self._settle, execution):
            return self._concluded(execution, end, found, await self._closing.recorded(found, answer))

    def _settle(self, execution: Execution | None) -> None:
        """Once: nothing is left of it to be stopped."""
        if execution is not None and self._execution is not None:
            self._execution = None
            execution.settle()

    def _ending_of(self, execution: Execution, end: ExecutionEnd) -> Ending:
        return ending.ending_of(self._state, end, work_directory=execution.work_directory, **self._closing.when(end))

    def _concluded(self, execution: Execution, end: ExecutionEnd, found: Ending, report: RunReport) -> RunReport:
        """Its end is recorded, or refused."""
        if "work_directory" not in found.run:  # else it is kept, for people who look into it
            # Not before the end is recorded: it may take long, and nobody waits for it.
            execution.clean_up(partial(self._closing.name_work_directory, found))
        if report.result is RunResult.ENDED and end.is_process_lost:
            return report._replace(why_process_lost=ending.error_of(self._state, end)["message"])
        return report


class _Then:
    """An end is being recorded, then it is settled. Even if the store refuses it for good, nobody asks for it again.
    Where the node ends before the store has answered, the supervisor keeps it for the next life. Each task passes
    here, so this is no generator."""

    __slots__ = ("_execution", "_settle")

    def __init__(self, settle: Callable[[Execution | None], None], execution: Execution | None) -> None:
        self._settle = settle
        self._execution = execution

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, (StoreUnreachableError, asyncio.CancelledError)):
            self._settle(self._execution)

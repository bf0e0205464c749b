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
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunChange, RunKey
from disbatch_host.documents.records import Document, Task
from disbatch_host.errors import StoreError, StoreUnreachableError
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import StartError, StopReason, Stream
from disbatch_host.run import checking, ending, modes, starting
from disbatch_host.run.closing import Closing
from disbatch_host.run.context import RunContext
from disbatch_host.run.execution import Execution, ExecutionEnd
from disbatch_host.run.recording import Recording
from disbatch_host.run.report import RunReport, RunResult
from disbatch_host.run.state import RunState
from disbatch_host.run.worker.process import Worker
from disbatch_protocol.outcome import Reason
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

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
    ) -> None:
        """`running`: `run` as it is in the task if that is Running already; else the task is Claimed. `worker`: the
        process reserved for it. `asked_at`: when the store was asked for it, by the monotonic clock."""
        self._context = context
        key = RunKey(task.id, context.site.node_id, task.token)
        self._state = RunState(task, plugin, key, running or {}, spool_directory=context.site.temporary_directory)
        self._recording = Recording(self._state, context.recorder, context.clock, pace=context.news, listener=listener)
        on_free = None if on_place_free is None else lambda: on_place_free(self)
        self._closing = Closing(self._state, context, on_free)
        self._is_running = running is not None
        self._owned_at = context.clock.monotonic() if asked_at is None else asked_at  # when it was certainly ours
        self._worker = worker  # the process that is ready for it, until it is handed over
        if worker is not None:
            worker.take()
        self._execution: Execution | None = None  # once it is started
        self._ended: asyncio.Future[ExecutionEnd] | None = None
        self._stop_before_start: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()
        self._is_held_back = False
        self._is_lost = False

    @property
    def holds_place(self) -> bool:
        """Whether it counts as one of those that run at once."""
        return self._closing.holds_place

    @property
    def has_program(self) -> bool:
        """Whether its program is running."""
        return self._ended is not None and not self._ended.done()

    @property
    def task(self) -> Task:
        return self._state.task

    @property
    def plugin(self) -> Plugin:
        return self._state.plugin

    @property
    def log_ids(self) -> dict[str, Any]:
        """The `extra=` of log calls about it."""
        return self._state.log_ids

    def stop(self, reason: StopReason) -> None:
        """Stop the program, with its grace; before its start: do not start it."""
        if self._execution is not None:
            self._execution.stop(reason)
        elif not self._stop_before_start.done():
            self._stop_before_start.set_result(reason)

    def cancel(self, request: Mapping[str, Any]) -> None:
        """Stop it because somebody wants that; `request` says who, when and why. Asking twice changes nothing."""
        if self._state.cancel is None:
            self._state.cancel = request
            self.stop(StopReason.CANCELLED)

    def kill(self, reason: StopReason) -> None:
        """Stop the program at once."""
        if self._execution is not None:
            self._execution.kill(reason)
        elif not self._stop_before_start.done():
            self._stop_before_start.set_result(reason)

    def hold_back(self) -> None:
        """Do not start it any more, but let it run if it has been started: the node is stopping."""
        self._is_held_back = True

    async def perform(self) -> RunReport:
        """Carry the task from Claimed to its end. Raises StoreError if the end could not be recorded."""
        try:
            return await self._perform()
        except StoreUnreachableError:
            raise
        except Exception as error:
            return await self._fail(error)
        finally:
            self._recording.stop()
            self._closing.close()
            self._state.close()

    async def _perform(self) -> RunReport:
        if self._should_not_start:
            return await self._return_task()
        if not self._is_running and (ended_early := await self._record_running()) is not None:
            return ended_early
        if not await self._is_still_ours():
            await self._closing.say_whose("it is not started here")
            self._release_worker()
            return RunReport(result=RunResult.REFUSED)
        try:
            execution, ended = await self._start()
        except StartError as error:
            return await self._closing.record_unstarted(error, left=Status.RUNNING)
        self._execution, self._ended = execution, ended
        if self._stop_before_start.done():
            self.stop(self._stop_before_start.result())
        self._recording.start(execution, on_lost=self._lose_task)
        return await self._record_end(execution, await ended)

    @property
    def _should_not_start(self) -> bool:
        return self._is_held_back or self._stop_before_start.done()

    async def _record_running(self) -> RunReport | None:
        """Claimed → Running, durable. Returns a report if it does not come to that."""
        task, plugin, state = self.task, self.plugin, self._state
        now = self._context.clock.now()
        if task.cancel is not None:  # asked for while an earlier attempt was running
            await self._record(transitions.cancelled_claim_change(task, state.key, task.cancel, now=now))
            return RunReport(result=RunResult.WITHDRAWN)
        if checking.has_expired(task, now):
            await self._record(transitions.expired_claim_change(state.key, now=now))
            return RunReport(result=RunResult.WITHDRAWN)
        try:
            checked = await checking.examined(task, plugin)
        except StartError as error:
            return await self._closing.record_unstarted(error, left=Status.CLAIMED)
        state.run = starting.run_fields(task, plugin, self._context, now=now, secrets=checked.secrets)
        if checked.faults:
            return await self._closing.record(
                ending.ending_without_start(
                    state, Reason.PARAMETERS, checked.in_words, left=Status.CLAIMED, **self._closing.when()
                )
            )
        if modes.needs_worker(plugin):
            try:
                self._worker = await self._context.workers.acquire_unless(self._stop_before_start, plugin)
            except StartError as error:
                return await self._closing.record_unstarted(error, left=Status.CLAIMED)
        if self._should_not_start:
            return await self._return_task()
        self._closing.began = self._owned_at = self._context.clock.monotonic()
        facts = {} if self._worker is None else self._worker.facts
        state.run |= {"started": self._context.clock.now(), **facts}
        state.is_pid_written = "pid_started" in state.run
        try:
            self._is_running = await self._record(
                transitions.start_change(task, state.key, state.run, now=state.run["started"])
            )
        except StoreError:
            self._release_worker()
            raise
        if not self._is_running:
            await self._closing.say_whose("it is not started here")
            self._release_worker()
            return RunReport(result=RunResult.REFUSED)
        return None

    def _release_worker(self) -> None:
        if self._worker is not None:
            self._context.workers.release(self._worker)
            self._worker = None

    async def _is_still_ours(self) -> bool:
        """This process may have stood still (SIGSTOP, a machine that swaps) since the store was asked, for so long that
        the task was declared lost and given to another node; then no program may be started."""
        key, clock = self._state.key, self._context.clock
        while (asked_at := clock.monotonic()) - self._owned_at > self._context.trust_seconds:
            try:
                if not await self._record(transitions.progress_change(key, {"node": key.node})):
                    return False
            except StoreError:
                self._release_worker()
                raise
            self._owned_at = asked_at
        return True

    async def _start(self) -> tuple[Execution, asyncio.Future[ExecutionEnd]]:
        """Start the program with its task. Raises StartError, with nothing left behind, and TaskFaultError."""
        task, plugin, context, state = self.task, self.plugin, self._context, self._state
        line = starting.input_of(task, plugin, state.run, extended_json=context.extended_json)
        assignment = starting.assignment_of(task, state.run)
        execution = modes.execution_of(
            plugin,
            assignment,
            site=context.site,
            processes=context.processes,
            workers=context.workers,
            worker=self._worker,
        )
        self._worker = None
        ended = await execution.start(line, self._recording)
        facts = execution.process_facts
        if facts.get("pid_started") != state.run.get("pid_started"):
            state.is_pid_written = False  # a different process from the one that was expected
        state.run |= facts
        return execution, ended

    async def _lose_task(self) -> None:
        """The task is no longer this run's: this process was away for too long, or a person took it back or deleted
        it."""
        self._is_lost = True
        self.stop(StopReason.LOST)
        await self._closing.say_whose("its process is stopped, nothing more is recorded")

    async def _return_task(self) -> RunReport:
        self._release_worker()
        now = self._context.clock.now()
        if self._is_running:
            await self._record(transitions.undo_start_change(self.task, self._state.key, now=now))
        else:
            await self._record(transitions.unclaim_change(self._state.key, now=now))
        return RunReport(result=RunResult.GIVEN_BACK)

    async def _fail(self, error: Exception) -> RunReport:
        """The task cannot be run, or something failed that nobody expected."""
        self._release_worker()
        execution, ended = self._execution, self._ended
        if execution is not None and ended is not None:
            execution.kill(StopReason.LOST)
            await asyncio.wait([ended], timeout=_KILLED_SECONDS)
            self._settle(execution)
        return await self._closing.record_host_error(error)

    async def _record_end(self, execution: Execution, ended: ExecutionEnd) -> RunReport:
        try:
            await self._recording.finish()
            return await self._record_what_ended(execution, ended)
        finally:
            self._settle(execution)  # even if the store refuses the end for good: nobody asks for it again

    def _settle(self, execution: Execution) -> None:
        """Once: nothing is left of it to be stopped."""
        self._execution = None
        execution.settle()

    async def _record_what_ended(self, execution: Execution, ended: ExecutionEnd) -> RunReport:
        state = self._state
        if self._is_lost or ended.end.reason is Reason.LOST:
            execution.clean_up()
            return RunReport(result=RunResult.REFUSED)
        if ended.was_not_reached:
            why = "was gone before it had read its task; a new one will be started"
            return await self._closing.record_unstarted(StartError(why), left=Status.RUNNING)
        await self._recording.record_pieces()
        found = ending.ending_of(state, ended, work_directory=execution.work_directory, **self._closing.when())
        report = await self._closing.record(found)
        if "work_directory" not in found.run:  # else it is kept, for people who look into it
            # Not before the end is recorded: it may take long, and nobody waits for it.
            execution.clean_up(partial(self._closing.name_work_directory, found))
        if report.result is RunResult.ENDED and ended.is_process_lost:
            return report._replace(why_process_lost=ending.error_of(state, ended)["message"])
        return report

    def _record(self, change: RunChange) -> asyncio.Future[bool]:
        return self._context.recorder.record(change)

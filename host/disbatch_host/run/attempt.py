"""One run: from a claimed task to its durable end.

Responsible for: the order of its steps, and stopping it. Must not know: how many runs there are, which queue is next,
which store is behind the recorder; what each step makes of the document (`starting`, `recording`, `ending`).

The steps of a run, in order; each waits for the one before it to be durable if a promise depends on it:

    parameters fit? ── no ──────────────────────────────────────► concluded without a start
    record Running ─── refused: another node owns the task ─────► nothing was started
    claim too old to trust? confirm in the store ─ refused ────────► nothing was started
    start the program ─ impossible ─────────────────────────────► back to the queue, counted against the class
    pass on output, pid ─ refused: the task was taken over ─────► stop the program, say so, write nothing more
    the program ended: record the end (guarded, once), then let the process host forget it
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from disbatch_host.documents import transitions
from disbatch_host.documents.changes import Place, RunChange, RunKey
from disbatch_host.documents.records import Document, Task
from disbatch_host.errors import StoreError, StoreRefusedError
from disbatch_host.plugin.catalog import Plugin
from disbatch_host.process.interface import StartError, StopReason, Stream
from disbatch_host.run import checking, ending, modes, starting
from disbatch_host.run.context import RunContext
from disbatch_host.run.ending import Ending
from disbatch_host.run.execution import Assignment, Execution, ExecutionEnd
from disbatch_host.run.recording import Recording
from disbatch_host.run.state import RunState
from disbatch_host.run.worker.process import Worker
from disbatch_protocol.outcome import Conclusion, Reason
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)


class RunResult(StrEnum):
    """The result of a run, for the node that asked for it."""

    ENDED = "ended"
    NOT_STARTED = "not_started"  # the program could not be started; the task is back in its queue
    GIVEN_BACK = "given_back"  # nothing was started, since the node is stopping; the task is back in its queue
    WITHDRAWN = "withdrawn"  # nothing was started: the task was cancelled, or it expired; it is Cancelled
    REFUSED = "refused"  # another node owns the task; nothing of this run was recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """How a run went. `conclusion` is None if nothing was concluded."""

    result: RunResult
    conclusion: Conclusion | None = None
    reason: Reason | None = None  # why it ended
    seconds: float = 0.0  # from its start to its end
    how: str = ""  # it ended: exit code, signal or reason, in short; nothing that the plugin said
    why_not_started: str | None = None
    is_machines_fault: bool = False  # it could not be started for want of descriptors, processes, memory or room
    why_process_lost: str | None = None  # worker mode: its process ended by itself while it had the task


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
        self._on_place_free = on_place_free
        self.holds_place = True  # whether it counts as one of those that run at once
        key = RunKey(task.id, context.site.node_id, task.token)
        self._state = RunState(task, plugin, key, running or {}, spool_directory=context.site.temporary_directory)
        self._recording = Recording(self._state, context.recorder, context.clock, pace=context.news, listener=listener)
        self._is_running = running is not None
        self._began = context.clock.monotonic()  # if started with its claim; else `_record_running` sets it
        self._owned_at = self._began if asked_at is None else asked_at  # when it was certainly ours
        self._worker = worker  # the process that is ready for it, until it is handed over
        if worker is not None:
            worker.take()
        self._execution: Execution | None = None  # once it is started
        self._stop_before_start: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()
        self._is_held_back = False
        self._is_lost = False

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
        finally:
            self._recording.stop()
            self._state.close()

    async def _perform(self) -> RunReport:
        if self._should_not_start:
            return await self._return_task()
        if not self._is_running and (ended_early := await self._record_running()) is not None:
            return ended_early
        if not await self._is_still_ours():
            log.warning("task %s was given to another node before its start here; it is not started", self.task.id)
            self._release_worker()
            return RunReport(result=RunResult.REFUSED)
        try:
            execution, ended = await self._start()
        except StartError as error:
            return await self._return_unstarted(error, Status.RUNNING)
        self._execution = execution
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
            return await self._return_unstarted(error, Status.CLAIMED)
        state.run = starting.run_fields(task, plugin, self._context, secrets=checked.secrets, now=now)
        if checked.faults:
            text = "; ".join(map(str, checked.faults))
            what = (
                "its parameters"
                if checked.took_too_long
                else "the parameters do not fit the plugin, so it was not started:"
            )
            message = f"{what} {text}"
            return await self._record_ending(
                ending.ending_without_start(state, Reason.PARAMETERS, message, left=Status.CLAIMED, **self._when())
            )
        if modes.needs_worker(plugin):
            try:
                self._worker = await self._context.workers.acquire_unless(self._stop_before_start, plugin)
            except StartError as error:
                return await self._return_unstarted(error, Status.CLAIMED)
        if self._should_not_start:
            return await self._return_task()
        self._began = self._owned_at = self._context.clock.monotonic()
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
            log.warning(
                "task %s was claimed here but now belongs to another node; it will not be started", task.id,
                extra=self.log_ids,
            )  # fmt: skip
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
        """Start the program with its task. Raises StartError, with nothing left behind."""
        task, plugin, context, state = self.task, self.plugin, self._context, self._state
        try:
            line = starting.input_line(task, plugin, state.run, extended_json=context.extended_json)
        except StartError:
            self._release_worker()
            raise
        assignment = Assignment(
            task_id=str(task.id),
            queue=str(task.queue),
            attempt=state.run["attempt"],
            note=starting.note_of(task, state.run),
        )
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

    def _lose_task(self) -> None:
        """The task is another node's now: this process was away for too long, or a person took the task back."""
        self._is_lost = True
        log.warning(
            "task %s was taken over while this node could not write; its process is stopped, nothing more is recorded",
            self.task.id,
            extra=self.log_ids,
        )
        self.stop(StopReason.LOST)

    async def _return_task(self) -> RunReport:
        self._release_worker()
        now = self._context.clock.now()
        if self._is_running:
            await self._record(transitions.undo_start_change(self.task, self._state.key, now=now))
        else:
            await self._record(transitions.unclaim_change(self._state.key, now=now))
        return RunReport(result=RunResult.GIVEN_BACK)

    async def _return_unstarted(self, error: StartError, left: Status) -> RunReport:
        why = str(error)
        log.error("task %s: plugin %s %s", self.task.id, self.plugin.name, why, extra=self.log_ids)
        report = await self._record_ending(
            ending.ending_without_start(self._state, Reason.START_FAILED, why, left=left, **self._when())
        )
        if report.result is not RunResult.ENDED:
            return report
        return replace(
            report,
            result=RunResult.NOT_STARTED,
            why_not_started=why,
            is_machines_fault=error.is_machines_fault,
        )

    async def _record_end(self, execution: Execution, ended: ExecutionEnd) -> RunReport:
        try:
            await self._recording.finish()
            return await self._record_what_ended(execution, ended)
        finally:
            execution.settle()  # even if the store refuses the end for good: nobody asks for it again

    async def _record_what_ended(self, execution: Execution, ended: ExecutionEnd) -> RunReport:
        state = self._state
        if self._is_lost or ended.end.reason is Reason.LOST:
            execution.clean_up()
            return RunReport(result=RunResult.REFUSED)
        if ended.was_not_reached:
            why = "was gone before it had read its task; a new one will be started"
            return await self._return_unstarted(StartError(why), Status.RUNNING)
        await self._recording.record_pieces()
        found = ending.ending_of(state, ended, work_directory=execution.work_directory, **self._when())
        if "work_directory" not in found.run:  # else it is kept, for people who look into it
            execution.clean_up()
        report = await self._record_ending(found)
        if report.result is RunResult.ENDED and ended.is_process_lost:
            return replace(report, why_process_lost=ending.error_of(state, ended)["message"])
        return report

    async def _record_ending(self, found: Ending) -> RunReport:
        try:
            accepted = await self._leave_place_with(found.change)
        except StoreRefusedError as refusal:  # its place has been left all the same
            found = ending.without_what_it_said(self._state, found, str(refusal))
            accepted = await self._record(found.change)
        if not accepted:
            log.warning(
                "task %s was taken over; the end of its run here is not recorded", self.task.id, extra=self.log_ids
            )
            return RunReport(result=RunResult.REFUSED)
        return RunReport(
            result=RunResult.ENDED,
            conclusion=found.conclusion,
            reason=found.end.reason,
            seconds=found.run["seconds"],
            how=ending.in_short(found.end),
        )

    def _leave_place_with(self, change: RunChange) -> asyncio.Future[bool]:
        """Record the end. The next task may be claimed: after this change, which is already on its way to the store."""
        place = Place(self.task.queue, self.plugin.name)
        answer = self._context.recorder.record(change, frees=place)
        self.holds_place = False
        if self._on_place_free is not None:
            self._on_place_free(self)
        return answer

    def _when(self) -> dict[str, Any]:
        """The times of its end, as `ending` wants them."""
        clock = self._context.clock
        # The store's clock is only known approximately: an answer of a slow server may set it back while the program
        # runs.
        now = max(clock.now(), self._state.run["started"])
        return {"now": now, "seconds": round(clock.monotonic() - self._began, 3), "chance": random.random()}

    def _record(self, change: RunChange) -> asyncio.Future[bool]:
        return self._context.recorder.record(change)

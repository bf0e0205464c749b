"""The preparation of a run: from a claimed task to one that is Running, durable, and certainly this node's.

Responsible for: what keeps a task from being started (its parameters, a request to cancel, a node that stops, another
owner), the worker process that it needs, and recording Running. Must not know: how the program is started or ends.
"""

from __future__ import annotations

import asyncio
import math

from disbatch_host.documents import earlier_outputs, transitions
from disbatch_host.documents.changes import RunChange
from disbatch_host.errors import StoreError
from disbatch_host.process.interface import StartError, StopReason, Trust
from disbatch_host.run import checking, ending, modes, starting
from disbatch_host.run.closing import Closing
from disbatch_host.run.context import RunContext
from disbatch_host.run.report import RunReport, RunResult
from disbatch_host.run.state import RunState
from disbatch_host.run.worker.process import Worker
from disbatch_protocol.outcome import Reason
from disbatch_protocol.status import Status


class Preparation:
    """Of one run, until its program is begun. Everything that is awaited may raise StoreError."""

    def __init__(
        self,
        state: RunState,
        context: RunContext,
        closing: Closing,
        *,
        is_running: bool,
        worker: Worker | None,
        asked_at: float | None,
    ) -> None:
        """`is_running`: in the store, already. `worker` and `asked_at`: see `Run`."""
        self.stop_asked: StopReason | None = None
        self.is_held_back = False
        self._state = state
        self._context = context
        self._closing = closing
        self._is_running = is_running
        self._owned_at = context.clock.since_boot() if asked_at is None else asked_at  # when it was certainly ours
        self._worker = worker  # the process that is ready for it
        if worker is not None:
            worker.take()
        self._stopped: asyncio.Future[None] | None = None  # where somebody waits for that

    @property
    def is_needed(self) -> bool:
        """Whether anything is to be done before the program is begun."""
        return not self._is_running or self._should_not_start or not self._is_certainly_ours

    @property
    def trust(self) -> Trust | None:
        """How long its program may be started without asking again. None: nobody else can have the task."""
        seconds = self._context.trust_seconds
        return None if seconds == math.inf else Trust(self._owned_at, seconds)

    def doubt(self) -> None:
        """It may be another's by now, whatever the clock says here."""
        self._owned_at = -math.inf

    def stop(self, reason: StopReason) -> None:
        """Do not start it. The first reason stays."""
        self.stop_asked = self.stop_asked or reason
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

    def hold_back(self, *, at_once: bool = False) -> None:
        """Do not start it any more. `at_once`: and wait no longer for a worker process."""
        self.is_held_back = True
        if at_once and self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

    def take_worker(self) -> Worker | None:
        """The process that was reserved for it, which is the caller's from now on."""
        worker, self._worker = self._worker, None
        return worker

    def release_worker(self) -> None:
        """Let others have it. Doing it twice is fine."""
        if self._worker is not None:
            self._context.workers.release(self._worker)
            self._worker = None

    async def prepare(self) -> RunReport | None:
        """Returns a report if it does not come to a start."""
        if self._should_not_start:
            return await self._return_task()
        if not self._is_running and (ended_early := await self._record_running()) is not None:
            return ended_early
        if not await self._is_still_ours():
            return await self._refused()
        return None

    @property
    def _should_not_start(self) -> bool:
        return self.is_held_back or self.stop_asked is not None

    @property
    def _is_certainly_ours(self) -> bool:
        return self._context.clock.since_boot() - self._owned_at <= self._context.trust_seconds

    async def _record_running(self) -> RunReport | None:
        state, task, plugin = self._state, self._state.task, self._state.plugin
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
        if modes.needs_worker(plugin) and not self._should_not_start:
            self._stopped = asyncio.get_running_loop().create_future()
            try:
                self._worker = await self._context.workers.acquire_unless(self._stopped, plugin)
            except StartError as error:
                return await self._closing.record_unstarted(error, left=Status.CLAIMED)
        if self._should_not_start:
            return await self._return_task()
        self._closing.began, self._owned_at = self._context.clock.monotonic(), self._context.clock.since_boot()
        facts = {} if self._worker is None else self._worker.facts
        state.run |= {"started": self._context.clock.now(), **facts}
        state.is_pid_written = "pid_started" in state.run
        change = transitions.start_change(
            task, state.key, state.run, now=state.run["started"], keep_attempts=state.keep_attempts
        )
        state.task = earlier_outputs.with_attempts(task, change.set)
        if change.keeps:
            await self._context.recorder.wait_for_budget()
        self._is_running = await self._record(change)
        return None if self._is_running else await self._refused()

    async def _is_still_ours(self) -> bool:
        """This process may have stood still (SIGSTOP, a machine that swaps) since the store was asked, for so long that
        the task was declared lost and given to another node; then no program may be started."""
        key = self._state.key
        while not self._is_certainly_ours:
            asked_at = self._context.clock.since_boot()
            if not await self._record(transitions.progress_change(key, {"node": key.node})):
                return False
            self._owned_at = asked_at
        return True

    async def _refused(self) -> RunReport:
        await self._closing.say_whose("it is not started here")
        self.release_worker()
        return RunReport(result=RunResult.REFUSED)

    async def _return_task(self) -> RunReport:
        self.release_worker()
        state, now = self._state, self._context.clock.now()
        if self._is_running:
            await self._record(transitions.undo_start_change(state.task, state.key, now=now))
        else:
            await self._record(transitions.unclaim_change(state.key, now=now))
        return RunReport(result=RunResult.GIVEN_BACK)

    async def _record(self, change: RunChange) -> bool:
        try:
            return await self._context.recorder.record(change)
        except StoreError:
            self.release_worker()
            raise

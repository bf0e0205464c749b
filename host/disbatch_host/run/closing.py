"""The close of a run: its end on the way into the store.

Responsible for: recording an end once, leaving the place of the run with it, and recording something smaller if the
store refuses that; saying whose the task is if it is no longer this run's. Must not know: what led to the end
(`attempt`), its content (`ending`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from disbatch_host import errors
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import Place
from disbatch_host.errors import StoreError, StoreRefusedError, StoreUnreachableError, TaskFaultError
from disbatch_host.process.interface import StartError
from disbatch_host.run import ending, starting
from disbatch_host.run.context import RunContext
from disbatch_host.run.ending import Ending
from disbatch_host.run.execution import ExecutionEnd
from disbatch_host.run.report import RunReport, RunResult
from disbatch_host.run.state import RunState
from disbatch_protocol.outcome import Reason
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)


class Closing:
    """The end of one run. Everything that is awaited may raise StoreError."""

    def __init__(self, state: RunState, context: RunContext, on_place_free: Callable[[], None] | None) -> None:
        self.holds_place = True  # whether the run counts as one of those that run at once
        self.began = context.clock.monotonic()
        self._state = state
        self._context = context
        self._on_place_free = on_place_free
        self._report: RunReport | None = None  # once its end is recorded

    def close(self) -> None:
        """The run is over. It and its close would hold each other, and only the garbage collector would free them."""
        self._on_place_free = None

    def when(self, end: ExecutionEnd | None = None) -> dict[str, Any]:
        """The times of an end, as `ending` wants them: it is now, unless it says otherwise."""
        clock = self._context.clock
        # The store's clock is only known approximately: an answer of a slow server may set it back while the program
        # runs.
        started = self._state.run["started"]
        now = max(clock.now(), started)
        when = {"now": now, "seconds": round(clock.monotonic() - self.began, 3), "chance": random.random()}
        if end is not None and end.seconds is not None:
            ended = max(now - timedelta(seconds=end.age_seconds), started)
            when |= {"at": ended, "seconds": round(end.seconds, 3)}
        return when

    def send(self, found: Ending) -> asyncio.Future[bool]:
        """Have an end recorded. The next task may be claimed: after this change, which is on its way to the store."""
        recorder = self._context.recorder
        if not self.holds_place:
            return recorder.record(found.change)
        place = Place(self._state.task.queue, self._state.plugin.name)
        answer = recorder.record(found.change, frees=place)
        self.holds_place = False
        if self._on_place_free is not None:
            self._on_place_free()
        return answer

    async def record(self, found: Ending) -> RunReport:
        """Record an end; without everything that the run has said if the store refuses that."""
        return await self.recorded(found, self.send(found))

    async def recorded(self, found: Ending, answer: asyncio.Future[bool]) -> RunReport:
        """The rest of `record` after `send`."""
        try:
            accepted = await answer
        except StoreRefusedError as refusal:  # its place has been left all the same
            found = ending.without_what_it_said(self._state, found, str(refusal))
            accepted = await self._context.recorder.record(found.change)
        return await self._answered(found, accepted)

    async def record_unstarted(self, error: StartError, *, left: Status) -> RunReport:
        """The program could not be started: the task goes back to its queue, unless it is at fault."""
        state, why = self._state, str(error)
        if error.is_too_large and state.plugin.manifest.command_line is not None:
            return await self._record_misfit(error, left=left)
        if not error.is_machines_fault:  # the node says that once for all runs that meet it
            log.error("task %s: plugin %s %s", state.task.id, state.plugin.name, why, extra=state.log_ids)
        report = await self.record(
            ending.ending_without_start(state, Reason.START_FAILED, why, left=left, **self.when())
        )
        if report.result is not RunResult.ENDED:
            return report
        return report._replace(
            result=RunResult.NOT_STARTED,
            why_not_started=why,
            is_machines_fault=error.is_machines_fault,
        )

    async def _record_misfit(self, error: StartError, *, left: Status) -> RunReport:
        """The system takes no command line as large as this task's parameters make it."""
        why = f"its parameters make a command line larger than this machine takes: {error}"
        return await self.record(
            ending.ending_without_start(self._state, Reason.PARAMETERS, why, left=left, **self.when())
        )

    async def record_host_error(self, error: Exception) -> RunReport:
        """The task cannot be run, or the host failed in running it: that is its end, whatever it has come to. Raises
        StoreError if the store refuses even that."""
        if self._report is not None:
            return self._report._replace(host_error=error)  # too late to change its end
        state, clock = self._state, self._context.clock
        if "attempt" not in state.run:
            secrets = starting.all_secret(state.plugin)
            state.run = starting.run_fields(
                state.task, state.plugin, self._context, now=clock.now(), secrets=secrets, has_words=False
            )
        when = self.when()
        found = ending.ending_by_host_error(state, _why_failed(error), now=when["now"], seconds=when["seconds"])
        report = await self._answered(found, await self.send(found))
        return report if isinstance(error, TaskFaultError) else report._replace(host_error=error)

    def name_work_directory(self, found: Ending, left: str) -> None:
        """The work directory cannot be removed: the document says where it is, if it is still as this run left it."""
        change = transitions.afterword_change(self._state.key, {"run": {**found.run, "work_directory": left}})
        # It is only a hint: nobody waits for it, and if it cannot be recorded the log has it all the same.
        self._context.recorder.record(change).add_done_callback(lambda done: done.cancelled() or done.exception())

    async def say_whose(self, what: str) -> None:
        """A change of this run was refused: say who has the task now. `what`: what follows from that."""
        task = self._state.task
        fate = "was deleted" if await self._is_deleted() else "was taken over"
        log.warning("task %s %s; %s", task.id, fate, what, extra=self._state.log_ids)

    async def _is_deleted(self) -> bool:
        is_deleted = self._context.is_deleted
        try:
            return is_deleted is not None and await is_deleted(self._state.task.id)
        except StoreError:
            return False  # only the words depend on it

    async def _answered(self, found: Ending, accepted: bool) -> RunReport:
        if accepted:
            return self.report(found)
        await self.say_whose("the end of its run here is not recorded")
        return RunReport(result=RunResult.REFUSED)

    def report(self, found: Ending) -> RunReport:
        """This end is recorded."""
        code = message = group = None
        if found.is_error:
            (code, message), group = found.error_texts, found.error_group
        self._report = RunReport(
            result=RunResult.ENDED,
            conclusion=found.conclusion,
            reason=found.end.reason,
            seconds=found.run["seconds"],
            how=ending.in_short(found.end),
            error_code=code,
            error_message=message,
            error_group=group,
            secrets=tuple(found.run.get("secrets", ())),
            left_over=found.run.get("left_over", ()),
        )
        return self._report


def _why_failed(error: Exception) -> str:
    """What the owner of the task reads."""
    if isinstance(error, TaskFaultError):
        return str(error)
    if isinstance(error, StoreError) and not isinstance(error, StoreUnreachableError):
        return f"the store refused what was to be recorded of it: {error}"
    return f"this node failed in handling it: {errors.in_words(error)}; its log may say more"

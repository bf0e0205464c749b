"""The ending of a run: the conclusion, the error, and the change that records them. Pure: the clock and chance are
passed in.

Responsible for: every end that a run of this node has seen, including those without a start. Must not know: stores,
processes, when the change is recorded; lost runs (`documents.transitions`).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from disbatch_host.documents import records, requests, run_processes, run_record, transitions
from disbatch_host.documents.causes import group_in
from disbatch_host.documents.changes import RunChange
from disbatch_host.documents.records import Document
from disbatch_host.documents.storable import storable
from disbatch_host.run.execution import BY_ADDRESS_SPACE, BY_GROUP, ExecutionEnd
from disbatch_host.run.state import RunState
from disbatch_protocol.outcome import FAILED_FOR_GOOD, Conclusion, Outcome, Reason, RunEnd, conclude
from disbatch_protocol.quantities import format_size
from disbatch_protocol.status import Status

# What could not be ended is looked at again before that, and the time is set again as long as it is there; a node that
# ends meanwhile and does not come back holds a task no longer.
HOLD_SECONDS = 60.0
# Ends brought about by this host: an error that the plugin reported before is not why it ended.
_ENDED_BY_HOST = frozenset({Reason.TIMEOUT, Reason.IDLE_TIMEOUT, Reason.CANCELLED, Reason.SHUTDOWN, Reason.LOST})


class Ending(NamedTuple):  # made for each task, at a quarter of what a frozen dataclass costs
    """The end of a run, ready to be recorded."""

    end: RunEnd
    conclusion: Conclusion
    run: Document  # as it will be in the document
    change: RunChange  # records all of it

    @property
    def is_error(self) -> bool:
        """Whether there is an error to be told."""
        return "error" in self.change.set

    @property
    def error_texts(self) -> tuple[str | None, str | None]:
        """`error.code` and `error.message`, as far as there is an error that has them. The message may quote secrets of
        the task."""
        error = self.change.set.get("error")
        if not isinstance(error, dict):
            return None, None
        code, message = error.get("code"), error.get("message")
        return code if isinstance(code, str) else None, message if isinstance(message, str) else None

    @property
    def error_group(self) -> str | None:
        """The key of the cause, if it failed."""
        group = group_in(self.change.set)
        return None if group is None else group[1]


def ending_of(
    state: RunState,
    ended: ExecutionEnd,
    *,
    now: datetime,
    seconds: float,
    chance: float,
    at: datetime | None = None,
    work_directory: str | None = None,
) -> Ending:
    """The end of a run whose program was started and has ended, with everything that it reported.

    `seconds`: since its start (dates may jump). `chance`, from 0 to 1, is for the delay of another attempt. `at`: when
    it ended, if that was before `now`.
    `work_directory`: the run's own, which is kept unless the run succeeded; the document names it then.
    """
    run = state.run_with({**ended.facts, **state.events.run_facts()})
    if state.plugin.manifest.limits.memory_bytes is not None and _is_known(ended):
        run.setdefault("memory_limit", BY_ADDRESS_SPACE)
    run["output"] = {str(stream): output.summary() for stream, output in state.streams}
    conclusion = _conclude(state, ended.end, chance)
    is_success = conclusion.outcome is Outcome.SUCCESS
    if work_directory is not None and not is_success:
        run["work_directory"] = storable(work_directory)
    fields = state.events.all_fields()
    for stream, output in state.streams:
        fields[str(stream)] = output.inline_text()
    return _ending(
        state,
        ended.end,
        conclusion,
        _ended_run(state, run, ended.end, conclusion, at or now, seconds),
        left=Status.RUNNING,
        error=_error_of_end(state, ended, conclusion),
        fields=fields,
        follow_ups=_follow_ups(state, now) if is_success else (),
        now=now,
    )


def ending_without_start(
    state: RunState,
    reason: Reason,
    message: str,
    *,
    left: Status,
    now: datetime,
    seconds: float,
    chance: float,
) -> Ending:
    """The end of a run whose program was not started, or was gone before it had read its task; see `ending_of`."""
    end = RunEnd(reason=reason)
    conclusion = _conclude(state, end, chance)
    return _ending(
        state,
        end,
        conclusion,
        _ended_run(state, state.run, end, conclusion, now, seconds),
        left=left,
        error={"code": str(reason), "message": f"disbatch-host: {storable(message)}"},
        fields={"stdout": "", "stderr": ""},
    )


def ending_by_host_error(state: RunState, message: str, *, now: datetime, seconds: float) -> Ending:
    """The end of a run that the host could not carry out, whether its program was started or not; see `ending_of`. It
    needs nothing of the task's document that anybody else has written."""
    end = RunEnd(reason=Reason.HOST_ERROR)
    conclusion = conclude(end, state.plugin.manifest, attempt=1, chance=0.0)
    found = _ending(
        state,
        end,
        conclusion,
        _ended_run(state, state.run, end, conclusion, now, seconds),
        left=Status.CLAIMED,
        error={"code": str(end.reason), "message": f"disbatch-host: {storable(message)}"},
        fields={},
    )
    # It may not be known whether the start was recorded.
    return found._replace(change=replace(found.change, statuses=(Status.CLAIMED, Status.RUNNING)))


def without_what_it_said(state: RunState, ending: Ending, refusal: str) -> Ending:
    """The same end for a store that refuses it, for instance because it is too large together with fields of other
    programs. How it ended must be recorded all the same; anything that cannot be stored is named. Follow-up tasks that
    cannot be created are lost work, so such a run has failed."""
    conclusion, run = ending.conclusion, ending.run
    if ending.change.creates:
        conclusion = conclude(ending.end, state.plugin.manifest, attempt=1, chance=0.0, said=FAILED_FOR_GOOD)
        run = {**run, "outcome": str(conclusion.outcome), "attempt_used": conclusion.attempt_used}
    error = {"code": "not_stored", "message": f"disbatch-host: the store refused what it said: {refusal}"}
    (left,) = ending.change.statuses
    return _ending(state, ending.end, conclusion, run, left=left, error=error, fields={})


def _is_known(ended: ExecutionEnd) -> bool:
    """Whether the end of its process was seen, which tells how its memory was limited."""
    return not ended.is_unseen and ended.end.reason is not Reason.DONE


def _error_of_end(state: RunState, ended: ExecutionEnd, conclusion: Conclusion) -> Document | None:
    if ended.is_unseen:
        what = "the supervisor of its runs ended while this task ran"
        what += f" ({ended.why_unseen})" if ended.why_unseen else ""
        error: Document = {"code": str(ended.end.reason)}
        error["message"] = transitions.lost_in_words(what, conclusion.outcome)
    elif conclusion.outcome in (Outcome.SUCCESS, Outcome.SNOOZE):
        return None
    else:
        error = error_of(state, ended)
    left = run_processes.processes_in_words(ended.facts, "left_over")
    if left is None:
        return error
    return {**error, "message": f"{error['message']}\ndisbatch-host: {left} could not be ended"}


def error_of(state: RunState, ended: ExecutionEnd) -> Document:
    """Why it failed: the plugin's own words, else the way it ended and what its stderr says at its end."""
    said = state.events.error
    is_over_memory = ended.hit_memory_limit and ended.end.reason not in _ENDED_BY_HOST
    is_why = ended.end.reason not in _ENDED_BY_HOST and not is_over_memory
    if said is not None and is_why and "message" in said:
        return said
    error = run_record.error_of(
        ended.end,
        manifest=state.plugin.manifest,
        line=run_record.why_of(state.stderr.last_lines(run_record.SEARCHED_LINES, run_record.SEARCHED_BYTES)),
        stderr=state.stderr.last_lines(run_record.STDERR_LINES, run_record.STDERR_BYTES),
        killed_after_seconds=ended.killed_after_seconds,
        said=state.events.said,
        fault=ended.fault,
        is_over_memory=is_over_memory,
        cancel=state.cancel,
    )
    if is_why and ended.facts.get("memory_limit") != BY_GROUP and _looks_like_memory(ended.end, state):
        limit = format_size(state.plugin.manifest.limits.memory_bytes or 0)
        error["message"] += f"\ndisbatch-host: limits.memory is {limit} of address space, which may be why"
    if not said:
        return error
    return {**error, **said} if is_why else {**error, "said": said}


# What programs say, and the signals that end them, when they cannot have more memory.
_OF_MEMORY = re.compile(
    r"memory|heap|bad_alloc|can't start new thread|cannot allocate|could not reserve|failed to (reserve|map)|mmap"
    r"|ENOMEM|Resource temporarily unavailable",
    re.IGNORECASE,
)
_SIGNALS_OF_MEMORY = frozenset({signal.SIGABRT, signal.SIGTRAP, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL})


def _looks_like_memory(end: RunEnd, state: RunState) -> bool:
    """Whether a run with a limit of memory may have ended because of it."""
    if state.plugin.manifest.limits.memory_bytes is None:
        return False
    if end.signal is not None:
        return end.signal in _SIGNALS_OF_MEMORY
    return _OF_MEMORY.search(state.stderr.last_lines(run_record.STDERR_LINES, run_record.STDERR_BYTES)) is not None


def in_short(end: RunEnd) -> str:
    """Exit code, signal or reason; nothing that the plugin said."""
    if end.reason is Reason.EXITED or (end.exit_code is not None and end.reason is Reason.DONE):
        return f"exit code {end.exit_code}"
    if end.reason is Reason.SIGNALED and end.signal is not None:
        return f"signal {run_record.signal_name(end.signal)}"
    return str(end.reason).replace("_", " ")


def _ending(
    state: RunState,
    end: RunEnd,
    conclusion: Conclusion,
    run: Document,
    *,
    left: Status,
    error: Document | None,
    fields: Document,
    follow_ups: Sequence[Document] = (),
    now: datetime | None = None,
) -> Ending:
    """`left`: the status that the task has now. `fields`: output, and the fields that the plugin set. `now`: if that is
    not when it ended."""
    ended, delay = run["ended"], conclusion.delay_seconds
    now = now or ended
    change = transitions.end_change(
        state.task,
        state.key,
        left=left,
        run=run,
        conclusion=conclusion,
        error=error,
        fields=fields,
        not_before=None if delay is None else ended + timedelta(seconds=delay),
        held_until=now + timedelta(seconds=HOLD_SECONDS) if "left_over" in run else None,
        now=now,
        creates=follow_ups,
        keep_attempts=state.keep_attempts,
    )
    return Ending(end=end, conclusion=conclusion, run=run, change=change)


def _conclude(state: RunState, end: RunEnd, chance: float) -> Conclusion:
    return conclude(
        end,
        state.plugin.manifest,
        attempt=state.run["attempt"] - state.task.attempts_forgiven,
        chance=chance,
        said=state.events.said,
    )


def _ended_run(
    state: RunState,
    run: Mapping[str, object],
    end: RunEnd,
    conclusion: Conclusion,
    now: datetime,
    seconds: float,
) -> Document:
    ended: Document = {**run, "ended": now, "seconds": seconds, "reason": str(end.reason)}
    if end.exit_code is not None:
        ended["exit_code"] = end.exit_code
    if end.signal is not None:
        ended["signal"] = run_record.signal_name(end.signal)
    if end.reason is Reason.CANCELLED and state.cancel is not None:
        ended = requests.with_cancel(ended, state.cancel)
    ended |= {"outcome": str(conclusion.outcome), "attempt_used": conclusion.attempt_used}
    return ended


def _follow_ups(state: RunState, now: datetime) -> list[Document]:
    """They belong to the batch of the task that creates them."""
    if not state.events.follow_ups:
        return []
    batch = state.task.document.get("batch")
    more = {"batch": batch} if isinstance(batch, str) else {}
    return [
        records.new_task(one.queue, dict(one.parameters), now=now, parent=str(state.task.id), **more)
        for one in state.events.follow_ups
    ]

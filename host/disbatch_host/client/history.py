"""The history of a task, in chronological order. Pure.

Responsible for: finding everything in a task document that has a time, and why it failed. Must not know: stores, how a
history is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from disbatch_host.decide.words import error_in_short, without_middle
from disbatch_host.documents.records import Task, TaskId, whole_number
from disbatch_protocol import status as statuses
from disbatch_protocol.quantities import format_size
from disbatch_protocol.status import Status

# Of `outcome.Reason`, whose module is too much for a list of tasks to load.
LOST = "lost"
_NEVER_STARTED = frozenset({"parameters", "start_failed"})
_HOST_ERROR = "host_error"  # before its program was started, or while it ran
_REASON_MAX = 500  # characters


class Kind(StrEnum):
    """The kind of an event."""

    CREATED = "created"
    PARENT = "parent"  # the task whose run created this one
    ATTEMPT = "attempt"  # an earlier one, from its start to its end
    CANCELLED = "cancelled"  # before it was retried, without having been started
    RETRIED = "retried"  # a person had it run again
    WAITS_FOR = "waits_for"  # other tasks
    NOT_BEFORE = "not_before"
    WAITS = "waits"
    EXPIRES = "expires"
    CLAIMED = "claimed"
    STARTED = "started"
    WENT_ON = "went_on"  # without the node, which found it again when it was started again
    CANCEL_ASKED = "cancel_asked"  # while it ran
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event in the life of a task, past or future."""

    kind: Kind
    at: datetime | None  # None: unknown; it stays behind the event that it followed
    until: datetime | None = None  # its end, if it took time
    by: str | None = None  # the person
    why: str | None = None
    node: str | None = None
    tasks: tuple[TaskId, ...] = ()  # the parent, or the predecessors
    status: int | None = None  # of an end without a run
    away_seconds: float | None = None  # of its node, before that
    run: Mapping[str, Any] = field(default_factory=dict)  # the fields of the attempt, as `run` or `attempts` hold them


def history_of(task: Task) -> list[Event]:
    """All events, by time; one without a time stays behind the event that it followed. The creation comes first,
    even if the clock of its creator was ahead."""
    keyed = []
    last = datetime.min
    for number, event in enumerate(_events(task)):
        if event.at is not None and event.kind is not Kind.CREATED:
            last = event.at.replace(tzinfo=None)
        keyed.append((last, number, event))
    return [event for _, _, event in sorted(keyed, key=lambda one: one[:2])]


def reason_in_short(task: Task) -> str:
    """Why it failed, on one line of at most 500 characters; empty if no reason is known."""
    if task.fault is not None:
        return f"damaged: {task.fault}"[:_REASON_MAX]
    return without_middle(error_in_short(task.document), _REASON_MAX)


def doubts(task: Task) -> list[str]:
    """What a task that concluded said besides: a program that half failed may exit with 0."""
    run = task.run
    errors, output = run.get("event_errors"), run.get("output")
    facts = output.get("stderr") if isinstance(output, Mapping) else None
    ignored = whole_number(errors.get("count")) if isinstance(errors, Mapping) else None
    size = whole_number(facts.get("bytes")) if isinstance(facts, Mapping) else None
    found = []
    if ignored:
        found.append(f"{ignored} {'line' if ignored == 1 else 'lines'} on descriptor 3 ignored")
    if size:
        found.append(f"{format_size(size)} on stderr")
    return found


def was_never_started(run: Mapping[str, Any]) -> bool:
    """Whether an attempt ended without its program having been started: refused for its parameters, for instance."""
    # Where not even the time is recorded, nobody knows.
    is_unstarted = run.get("reason") == _HOST_ERROR and "started" in run and "pid" not in run
    return is_unstarted or run.get("reason") in _NEVER_STARTED


def code_of_error(task: Task) -> str:
    """The code of a task's error; the name of its status where it has none."""
    error = task.document.get("error")
    code = error.get("code") if isinstance(error, Mapping) else None
    return code if isinstance(code, str) and code else statuses.name(task.status)


def _events(task: Task) -> Iterator[Event]:
    """Roughly ordered; events of the same millisecond keep this order."""
    document, run = task.document, task.run
    by = document.get("created_by") or document.get("by")
    yield Event(kind=Kind.CREATED, at=_moment(document.get("ctime")), by=by if isinstance(by, str) and by else None)
    if "parent" in document:
        yield Event(kind=Kind.PARENT, at=None, tasks=(document["parent"],))
    for attempt in task.attempts:
        if isinstance(attempt, Mapping):
            yield from _attempt_events(attempt)
    retried = document.get("retried")
    if isinstance(retried, Mapping):
        if isinstance(before := retried.get("cancelled"), Mapping):
            yield _asked(Kind.CANCELLED, before)
        yield _asked(Kind.RETRIED, retried)
    after = document.get("after")
    if isinstance(after, (list, tuple)) and after:
        yield Event(kind=Kind.WAITS_FOR, at=None, tasks=tuple(after))
    is_waiting = task.status in (Status.BLOCKED, Status.CREATED)
    not_before, expires = _moment(document.get("not_before")), _moment(document.get("expires"))
    if task.status == Status.BLOCKED and not_before is not None:
        yield Event(kind=Kind.NOT_BEFORE, at=not_before)
    if is_waiting:
        yield Event(kind=Kind.WAITS, at=None)
    if is_waiting and expires is not None:
        yield Event(kind=Kind.EXPIRES, at=expires)
    claim = document.get("claim")
    if isinstance(claim, Mapping) and task.node is not None and run.get("reason") != LOST:
        yield Event(kind=Kind.CLAIMED, at=_claimed_at(claim, run), node=task.node)
    # A run that went back to the queue, or was ended to be run again, is already covered by `attempts`.
    if run.get("attempt") and not _is_among_attempts(task):
        yield from _run_events(run)
    if task.cancel is not None:
        yield _asked(Kind.CANCEL_ASKED, task.cancel)
    if statuses.is_finished(task.status) and not run.get("ended"):
        yield _end_without_run(task)


def _claimed_at(claim: Mapping[str, Any], run: Mapping[str, Any]) -> datetime | None:
    """On MongoDB the claim has the server's time and the start the node's: the claim came first all the same."""
    claimed, started = _moment(claim.get("at")), _moment(run.get("started"))
    is_of_this_run = claimed is not None and started is not None and claim.get("token") == run.get("token")
    return min(claimed, started) if is_of_this_run and claimed is not None and started is not None else claimed


def _attempt_events(attempt: Mapping[str, Any]) -> Iterator[Event]:
    cancelled = attempt.get("cancelled")
    if isinstance(cancelled, Mapping):
        yield _asked(Kind.CANCEL_ASKED, cancelled)
    yield Event(
        kind=Kind.ATTEMPT,
        at=_moment(attempt.get("started")),
        until=_moment(attempt.get("ended")),
        node=_text(attempt.get("node")),
        run=attempt,
    )


def _run_events(run: Mapping[str, Any]) -> Iterator[Event]:
    started, ended = _moment(run.get("started")), _moment(run.get("ended"))
    if not was_never_started(run) and not (run.get("reason") == _HOST_ERROR and started is None):
        yield Event(kind=Kind.STARTED, at=started, node=_text(run.get("node")), run=run)
    adopted = run.get("adopted")
    for one in adopted if isinstance(adopted, (list, tuple)) else ():
        if isinstance(one, Mapping):
            away = one.get("away_seconds")
            yield Event(
                kind=Kind.WENT_ON,
                at=_moment(one.get("at")),
                node=_text(run.get("node")),
                away_seconds=away if isinstance(away, (int, float)) else None,
            )
    cancelled = run.get("cancelled")
    if isinstance(cancelled, Mapping):
        yield _asked(Kind.CANCEL_ASKED, cancelled)
    if run.get("reason") == LOST:  # `ended` is when the loss was found
        yield Event(kind=Kind.ENDED, at=None, run=run)
    elif ended is not None:
        yield Event(kind=Kind.ENDED, at=ended, run=run)


def _is_among_attempts(task: Task) -> bool:
    last = task.attempts[-1] if task.attempts else None
    return (
        isinstance(last, Mapping)
        and last.get("started") == task.run.get("started")
        and last.get("ended") == task.run.get("ended")
        and "ended" in last
    )


def _end_without_run(task: Task) -> Event:
    at, cancelled = _moment(task.document.get("mtime")), task.run.get("cancelled")
    if not isinstance(cancelled, Mapping):
        return Event(kind=Kind.ENDED, at=at, status=task.status)
    return Event(kind=Kind.ENDED, at=at, status=task.status, by=_who(cancelled), why=_text(cancelled.get("why")))


def _asked(kind: Kind, request: Mapping[str, Any]) -> Event:
    return Event(kind=kind, at=_moment(request.get("at")), by=_who(request), why=_text(request.get("why")))


def _who(request: Mapping[str, Any]) -> str:
    return str(request.get("by") or "somebody")


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _moment(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None

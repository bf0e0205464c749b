"""The story of a task: what has happened to it, in the order of time, with how long it took in between. Pure.

Responsible for: finding everything in a task document that has a time, and saying it in words. Must not know: stores,
terminals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from disbatch_host.cli import render
from disbatch_host.documents.records import Task
from disbatch_protocol import status as statuses
from disbatch_protocol.outcome import Reason
from disbatch_protocol.status import Status

_TASKS_NAMED = 3  # of those that it waits for


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    """Something that has happened, or will. `at` None: nobody knows when; it stays where it is."""

    at: datetime | None
    name: str
    text: str = ""
    is_gap_told: bool = True  # whether the time since what was before it says something
    until: datetime | None = None  # where it took some time itself


def told(task: Task, *, now: datetime) -> list[tuple[str, Any]]:
    """The story as names and texts, for `render.print_facts`."""
    facts = []
    before: datetime | None = None
    for event in _in_order(list(_events(task))):
        facts.append((event.name, _line(event, before, now)))
        before = event.until or event.at or before
    return facts


def how_it_ended(run: Mapping[str, Any]) -> str:
    """Exit code, signal, reason and how long it took, as far as they are there."""
    parts = []
    if "exit_code" in run:
        parts.append(f"exit code {run['exit_code']}")
    if "signal" in run:
        parts.append(f"signal {run['signal']}")
    reason = str(run.get("reason", ""))
    if reason not in ("", "exited", "signaled"):
        parts.append(reason.replace("_", " "))
    if "seconds" in run and reason != Reason.LOST:
        parts.append(f"after {render.duration(run['seconds'])}")
    return ", ".join(parts) or "still running"


def _in_order(events: Sequence[_Event]) -> list[_Event]:
    """By time; what has none stays behind what it came after."""
    keyed = []
    last = datetime.min
    for number, event in enumerate(events):
        last = last if event.at is None else event.at.replace(tzinfo=None)
        keyed.append((last, number, event))
    return [event for _, _, event in sorted(keyed, key=lambda one: one[:2])]


def _line(event: _Event, before: datetime | None, now: datetime) -> str:
    if event.at is None:
        return event.text
    if before is None or event.at > now:
        gap = f" ({render.age(event.at, now)})"
    elif event.is_gap_told and event.at >= before:
        gap = f" ({_words_of((event.at - before).total_seconds())} later)"
    else:
        gap = ""
    text = f", {event.text}" if event.text else ""
    return f"{render.moment(event.at)}{gap}{text}"


def _words_of(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else render.duration(seconds)


def _events(task: Task) -> Iterator[_Event]:
    """In about their order; those of the same millisecond stay in it."""
    document, run = task.document, task.run
    yield _Event(at=_moment(document.get("ctime")), name="created", text=_creator(document))
    if "parent" in document:
        yield _Event(at=None, name="parent", text=f"{document['parent']}, whose run has created this one")
    for attempt in task.attempts:
        if isinstance(attempt, Mapping):
            yield from _attempt_events(attempt)
    retried = document.get("retried")
    if isinstance(retried, Mapping):
        yield _Event(at=_moment(retried.get("at")), name="retried", text=_by(retried))
    after = document.get("after")
    if isinstance(after, (list, tuple)) and after:
        more = f" and {len(after) - _TASKS_NAMED} more" if len(after) > _TASKS_NAMED else ""
        names = ", ".join(str(one) for one in after[:_TASKS_NAMED])
        yield _Event(at=None, name="waits for", text=f"task {names}{more}")
    is_waiting = task.status in (Status.BLOCKED, Status.CREATED)
    if task.status == Status.BLOCKED:
        not_before = _moment(document.get("not_before"))
        if not_before is not None:
            yield _Event(at=not_before, name="not before", is_gap_told=False)
    expires = _moment(document.get("expires"))
    if is_waiting:
        yield _Event(at=None, name="waits", text=f"`disbatch-host task why {task.id}` says why")
    if is_waiting and expires is not None:
        yield _Event(at=expires, name="expires", is_gap_told=False)
    claim = document.get("claim")
    is_lost = run.get("reason") == Reason.LOST
    if isinstance(claim, Mapping) and task.node is not None and not is_lost:
        yield _Event(at=_moment(claim.get("at")), name="claimed", text=f"by node {task.node}")
    # A run that went back to the queue, or was ended to be run again, is told by `attempts` already.
    if run.get("attempt") and not _is_among_attempts(task):
        yield from _run_events(run)
    if task.cancel is not None:
        yield _Event(at=_moment(task.cancel.get("at")), name="cancel asked", text=_by(task.cancel))
    if statuses.is_finished(task.status) and not run.get("ended"):
        yield _Event(at=_moment(document.get("mtime")), name="ended", text=_end_without_run(task))


def _attempt_events(attempt: Mapping[str, Any]) -> Iterator[_Event]:
    cancelled = attempt.get("cancelled")
    if isinstance(cancelled, Mapping):
        yield _Event(at=_moment(cancelled.get("at")), name="cancel asked", text=_by(cancelled))
    error = attempt.get("error")
    message = str(error.get("message") or "") if isinstance(error, Mapping) else ""
    lines = message.strip().splitlines()
    why = f": {lines[-1]}" if lines else ""
    yield _Event(
        at=_moment(attempt.get("started")),
        until=_moment(attempt.get("ended")),
        name=f"attempt {attempt.get('attempt', '?')}",
        text=f"on {attempt.get('node')}, {how_it_ended(attempt)}{why}",
    )


def _run_events(run: Mapping[str, Any]) -> Iterator[_Event]:
    started, ended = _moment(run.get("started")), _moment(run.get("ended"))
    yield _Event(at=started, name="started", text=f"attempt {run['attempt']} on node {run.get('node')}")
    cancelled = run.get("cancelled")
    if isinstance(cancelled, Mapping):
        yield _Event(at=_moment(cancelled.get("at")), name="cancel asked", text=_by(cancelled))
    if run.get("reason") == Reason.LOST:
        text = f"lost with its node, nobody knows when; found at {render.moment(ended)}"
        yield _Event(at=None, name="ended", text=text)
    elif ended is not None:
        yield _Event(at=ended, name="ended", text=how_it_ended(run), is_gap_told=False)


def _is_among_attempts(task: Task) -> bool:
    last = task.attempts[-1] if task.attempts else None
    return (
        isinstance(last, Mapping)
        and last.get("started") == task.run.get("started")
        and last.get("ended") == task.run.get("ended")
        and "ended" in last
    )


def _end_without_run(task: Task) -> str:
    cancelled = task.run.get("cancelled")
    if isinstance(cancelled, Mapping):
        return f"{statuses.name(task.status)} {_by(cancelled)}"
    return statuses.name(task.status)


def _creator(document: Mapping[str, Any]) -> str:
    by = document.get("by")
    return f"by {by}" if isinstance(by, str) and by else ""


def _by(request: Mapping[str, Any]) -> str:
    why = f": {request['why']}" if request.get("why") else ""
    return f"by {request.get('by') or 'somebody'}{why}"


def _moment(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None

"""The history of a task in words, with the times in between. Pure.

Responsible for: wording what `client.history` found. Must not know: stores, terminals.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from disbatch_host.cli import render
from disbatch_host.client import history
from disbatch_host.client.history import Event, Kind
from disbatch_host.decide.words import error_in_short
from disbatch_host.documents.records import Task
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status

_TASKS_NAMED = 3  # of its predecessors


def told(task: Task, *, now: datetime, why: str | None = None, is_at_work: bool = True) -> list[tuple[str, Any]]:
    """The story as names and texts, for `render.print_facts`. `why`: why it waits, if it does. `is_at_work`: the
    node that has it is there."""
    facts = []
    before: datetime | None = None
    for event in history.history_of(task):
        line = why if event.kind is Kind.WAITS and why else _line(event, task, before, now, is_at_work=is_at_work)
        facts.append((_name(event), line))
        before = event.until or event.at or before
    return facts


def how_it_ended(run: Mapping[str, Any]) -> str:
    """Exit code, signal, reason and duration, if known."""
    if history.was_never_started(run):
        return f"not started: {str(run['reason']).replace('_', ' ')}"
    parts = []
    if "exit_code" in run:
        parts.append(f"exit code {run['exit_code']}")
    if "signal" in run:
        parts.append(f"signal {run['signal']}")
    reason = str(run.get("reason", ""))
    if reason not in ("", "exited", "signaled"):
        parts.append(reason.replace("_", " "))
    if "seconds" in run and reason != history.LOST:
        parts.append(f"after {render.duration(run['seconds'])}")
    return ", ".join(parts) or "still running"


def _name(event: Event) -> str:
    name = event.kind.replace("_", " ")
    return f"{name} {event.run.get('attempt', '?')}" if event.kind is Kind.ATTEMPT else name


def _line(event: Event, task: Task, before: datetime | None, now: datetime, *, is_at_work: bool) -> str:
    words = _in_words(event, task)
    if event.at is None:
        return words
    if event.kind is Kind.STARTED and task.status == Status.RUNNING and is_at_work:
        words = f"{words}, running for {render.duration(round(max(0.0, (now - event.at).total_seconds())))}"
    # A gap before a future moment says nothing, and a run gives its own duration.
    is_gap_told = event.kind not in (Kind.NOT_BEFORE, Kind.EXPIRES) and not (event.kind is Kind.ENDED and event.run)
    if before is None or event.at > now:
        gap = f" ({render.age(event.at, now)})"
    elif is_gap_told and event.at >= before:
        gap = f" ({_words_of((event.at - before).total_seconds())} later)"
    else:
        gap = ""
    return f"{render.moment(event.at)}{gap}{f', {words}' if words else ''}"


def _words_of(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else render.duration(seconds)


def _in_words(event: Event, task: Task) -> str:
    match event.kind:
        case Kind.CREATED:
            return f"by {event.by}" if event.by else ""
        case Kind.PARENT:
            return f"{event.tasks[0]}, whose run created this one"
        case Kind.ATTEMPT:
            error = error_in_short(event.run)
            return f"on {event.node}, {how_it_ended(event.run)}{f': {error}' if error else ''}"
        case Kind.WAITS_FOR:
            more = f" and {len(event.tasks) - _TASKS_NAMED} more" if len(event.tasks) > _TASKS_NAMED else ""
            return f"task {', '.join(map(str, event.tasks[:_TASKS_NAMED]))}{more}"
        case Kind.WAITS:
            return f"`disbatch-host task why {task.id}` says why"
        case Kind.CLAIMED:
            return f"by node {event.node}"
        case Kind.STARTED:
            return f"attempt {event.run['attempt']} on node {event.node}"
        case Kind.WENT_ON:
            away = "" if event.away_seconds is None else f" after {render.duration(round(event.away_seconds))}"
            return f"the node was restarted{away}, the run went on"
        case Kind.CANCELLED | Kind.RETRIED | Kind.CANCEL_ASKED:
            return _by(event)
        case Kind.ENDED:
            return _end(event)
        case _:
            return ""


def _end(event: Event) -> str:
    if not event.run:
        name = statuses.name(event.status or 0)
        return f"{name} {_by(event)}" if event.by else name
    if event.run.get("reason") == history.LOST:
        return f"lost, at an unknown time; found at {render.moment(event.run.get('ended'))}"
    return how_it_ended(event.run)


def _by(event: Event) -> str:
    return f"by {event.by}{f': {event.why}' if event.why else ''}"

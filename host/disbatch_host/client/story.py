"""An event in the life of a task, in words. Pure.

Responsible for: wording what `history` found, without times. Must not know: stores, terminals.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from disbatch_host import suggested
from disbatch_host.client import history
from disbatch_host.client.history import Event, Kind
from disbatch_host.decide.words import error_in_short
from disbatch_host.documents import local_time
from disbatch_host.documents.records import Task
from disbatch_protocol import status as statuses
from disbatch_protocol.quantities import format_duration

_TASKS_NAMED = 3  # of its predecessors


def name_of(event: Event) -> str:
    """`attempt 2`."""
    name = event.kind.replace("_", " ")
    return f"{name} {event.run.get('attempt', '?')}" if event.kind is Kind.ATTEMPT else name


def in_words(event: Event, task: Task) -> str:
    """What is to be said of it besides its name and its times; may be empty."""
    match event.kind:
        case Kind.CREATED:
            return f"by {event.by}" if event.by else ""
        case Kind.PARENT:
            return f"{event.tasks[0]}, whose run created this one"
        case Kind.ATTEMPT:
            error = error_in_short(event.run)
            said = f"on {event.node}, {how_it_ended(event.run)}{f': {error}' if error else ''}"
            return f"{said}{_changed_since(event.run)}"
        case Kind.WAITS_FOR:
            more = f" and {len(event.tasks) - _TASKS_NAMED} more" if len(event.tasks) > _TASKS_NAMED else ""
            return f"task {', '.join(map(str, event.tasks[:_TASKS_NAMED]))}{more}"
        case Kind.WAITS:
            return f"{suggested.hint('task why', task.id)} says why"
        case Kind.CLAIMED:
            return f"by node {event.node}"
        case Kind.STARTED:
            return f"attempt {event.run['attempt']} on node {event.node}"
        case Kind.WENT_ON:
            away = "" if event.away_seconds is None else f" after {format_duration(round(event.away_seconds))}"
            return f"the node was restarted{away}, the run went on"
        case Kind.CANCELLED | Kind.RETRIED | Kind.CANCEL_ASKED:
            return _by(event)
        case Kind.ENDED:
            return _end(event)
        case _:
            return ""


def _changed_since(run: Mapping[str, Any]) -> str:
    """The names of the parameters that a retry has changed after this attempt; their values may be secret."""
    changed = run.get("parameters")
    if isinstance(changed, Mapping) and changed:
        return f"; then run again with other values of {', '.join(map(str, changed))}"
    return "; then run again with other parameters" if changed else ""


def _end(event: Event) -> str:
    if not event.run:
        name = statuses.name(event.status or 0)
        return f"{name} {_by(event)}" if event.by else name
    if event.run.get("reason") == history.LOST:
        return f"lost, at an unknown time; found at {_moment(event.run.get('ended'))}"
    return how_it_ended(event.run)


def _by(event: Event) -> str:
    return f"by {event.by}{f': {event.why}' if event.why else ''}"


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
        parts.append(f"after {_duration(run['seconds'])}")
    return ", ".join(parts) or "still running"


def _duration(seconds: Any) -> str:
    return format_duration(float(seconds)) if isinstance(seconds, (int, float)) else "-"


def _moment(value: Any) -> str:
    return local_time.shown(value) if isinstance(value, datetime) else "-"

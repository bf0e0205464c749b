"""The history of a task in words, with the times in between. Pure.

Responsible for: the times around what `client.story` words. Must not know: stores, terminals.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from disbatch_host.cli import render
from disbatch_host.client import history
from disbatch_host.client.history import Event, Kind
from disbatch_host.client.story import in_words, name_of
from disbatch_host.documents.records import Task
from disbatch_protocol.status import Status


def told(task: Task, *, now: datetime, why: str | None = None, is_at_work: bool = True) -> list[tuple[str, Any]]:
    """The story as names and texts, for `render.print_facts`. `why`: why it waits, if it does. `is_at_work`: the
    node that has it is there."""
    facts = []
    before: datetime | None = None
    for event in history.history_of(task):
        line = why if event.kind is Kind.WAITS and why else _line(event, task, before, now, is_at_work=is_at_work)
        facts.append((name_of(event), line))
        before = event.until or event.at or before
    return facts


def _line(event: Event, task: Task, before: datetime | None, now: datetime, *, is_at_work: bool) -> str:
    words = in_words(event, task)
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

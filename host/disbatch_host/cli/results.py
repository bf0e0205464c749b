"""The result for each task that a command changed, one per line: in words, or as documents with --json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from disbatch_host import suggested
from disbatch_host.cli import render
from disbatch_host.client.control import Outcome, Result
from disbatch_host.client.remedies import remedy
from disbatch_host.client.standstill import Still
from disbatch_host.documents.batch import Batch
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses

Words = Mapping[Outcome, Callable[[Result], str]]


def say(store: Store, results: Sequence[Result], words: Words | None = None, *, as_json: bool) -> None:
    """`words`: this command's own, which override the common ones."""
    spoken = {**_WORDS, **(words or {})}
    for one in results:
        if as_json:
            document = {"_id": one.task.id, "queue": one.task.queue, "outcome": str(one.outcome), **_more(one)}
            render.print_json(document, store.extended_json)
        else:
            click.echo(f"{one.task.id} {spoken[one.outcome](one)}")


def say_still(still: Still) -> None:
    """Why nothing moves, and what helps, in the words of `task why`."""
    click.echo(render.printable(f"nothing moves; task {still.task_id}: {still.why.sentence}"), err=True)
    if (helps := remedy(still.why.code, queue=still.queue, task=still.task_id)) is not None:
        click.echo(render.printable(helps), err=True)


def say_open(found: Batch) -> None:
    """That a batch, which is waited for, has to be closed."""
    closes = suggested.hint("batch close", found.id)
    text = f"batch {found.id} has no unfinished task, but it is open; {closes} closes it"
    click.echo(render.printable(text), err=True)


def status_of(result: Result) -> str:
    return statuses.name(result.task.status)


def _more(result: Result) -> Mapping[str, Any]:
    """The obstacle, or the node that is asked."""
    if result.outcome in _BY_STATUS:
        return {"status": result.task.status, "status_name": statuses.name(result.task.status)}
    if result.outcome is Outcome.ASKED:
        return {"node": result.task.node}
    if result.outcome is Outcome.STORE_REFUSED:
        return {"why": result.why}
    return {} if result.other is None else {"other": str(result.other.id)}


_BY_STATUS = (Outcome.ENDED, Outcome.NOT_ENDED, Outcome.NOT_BLOCKED, Outcome.NOT_WAITING)


def _has_key(result: Result) -> str:
    assert result.other is not None
    other = f"task {result.other.id}, which is {statuses.name(result.other.status)}"
    return f"is not run again: {other}, has the same unique key"


_WORDS: Words = {
    Outcome.CANCELLED: lambda _: "cancelled",
    Outcome.ASKED: lambda one: f"is being stopped by node {one.task.node}",
    Outcome.RETRIED: lambda _: "will be run again",
    Outcome.RELEASED: lambda _: "is released",
    Outcome.DELETED: lambda _: "deleted",
    Outcome.SET: lambda _: "is changed",
    Outcome.ENDED: lambda one: f"had already ended: {status_of(one)}",
    Outcome.NOT_BLOCKED: lambda one: f"is not blocked, it is {status_of(one)}",
    Outcome.NOT_WAITING: lambda one: f"is not changed: it is no longer waiting, it is {status_of(one)}",
    Outcome.UNIQUE_KEY: _has_key,
    Outcome.AWAITED: lambda _: "is not deleted: another task waits for it; cancel or release that one first",
    Outcome.REFUSED: lambda _: "is not run again: somebody has just changed it",
    Outcome.STORE_REFUSED: lambda one: f"is not changed: {one.why}",
    Outcome.IN_BATCH: lambda one: f"is not deleted: its batch {one.task.document.get('batch')} is not done",
    Outcome.OWES: lambda _: "is not deleted yet: a node has still to create its follow-up tasks",
    Outcome.GONE: lambda _: "has just been deleted",
}

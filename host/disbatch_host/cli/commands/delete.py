"""`disbatch-host task delete`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from disbatch_host import suggested
from disbatch_host.cli import bars, common, results, selection
from disbatch_host.cli.frame import common_options
from disbatch_host.client import allowed, deleting, times
from disbatch_host.client.control import Outcome
from disbatch_host.client.finding import find_named
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Task
from disbatch_host.errors import ExitCode, FieldError, UsageError
from disbatch_host.store.contract import Store


@click.command()
@selection.NAMES
@selection.filter_options
@click.option("--older", metavar="DURATION", help="Only those that ended longer ago than this, like 30d.")
@selection.YES
@common_options
def delete(ids: tuple[str, ...], filters: Mapping[str, Any], older: str | None, yes: bool) -> int:
    """Delete ended tasks with their output. This cannot be undone.

    \b
      disbatch-host task delete 5f0c… 5f0d…
      disbatch-host task delete --queue mail --status concluded --older 30d --yes

    Unfinished tasks are refused (cancel them first), and so are tasks that another task waits for. To have a queue
    delete its old tasks by itself: queue set ID keep=30d.

    At a terminal, more than one task of a queue is deleted only after a question. A script always needs --yes.
    """
    is_named = selection.is_named(ids, filters, *(["--older"] if older is not None else []))
    if filters["failure"] is not None and not filters["status"]:
        filters = {**filters, "status": allowed.FAILED_SOMEHOW}
    if not is_named and not filters["status"]:
        raise UsageError("expected --status with --queue, such as --status concluded, found none")
    with common.options_named():
        _check(filters)
        age = None if older is None else times.duration("older", older)
    as_json = common.wants_json()
    with common.opened_store() as store:
        if is_named:
            return _delete_named(store, find_named(store, ids, common.who()), as_json=as_json)
        which = selection.filter_of(store, filters)
        if age is not None:
            which = dataclasses.replace(which, changed_before=store.now() - age)
        total = store.count_tasks(which)
        question = f"delete {common.count_of(total, 'task')} {selection.of_what(filters)}?"
        selection.confirm(question, total, yes=yes, is_explicit=False)
        _delete_selected(store, which, total, as_json=as_json)
        return ExitCode.DONE


def _check(filters: Mapping[str, Any]) -> None:
    """Raises FieldError for a status of unfinished tasks, with the command that ends them."""
    try:
        allowed.check_deletable(filters["status"])
    except FieldError as error:
        cancels = suggested.hint("task cancel", *selection.words_of({**filters, "status": ("unfinished",)}))
        raise FieldError("status", f"{error.reason}: {cancels}") from error


_WORDS: results.Words = {
    Outcome.NOT_ENDED: lambda one: f"is not deleted: it has not ended, it is {results.status_of(one)}; cancel it first"
}


def _delete_named(store: Store, tasks: Sequence[Task], *, as_json: bool) -> int:
    code = ExitCode.DONE
    for batch in deleting.delete(store, tasks):
        results.say(store, batch, _WORDS, as_json=as_json)
        if not all(one.is_done for one in batch):
            code = ExitCode.FAILED
    return code


def _delete_selected(store: Store, which: TaskFilter, total: int, *, as_json: bool) -> None:
    deleted = kept = 0
    left: Counter[Outcome] = Counter()
    with bars.progress("deleting tasks", total=total) as advance:
        for batch in deleting.delete(store, which):
            if as_json:
                results.say(store, batch, _WORDS, as_json=True)
            done = sum(one.is_done for one in batch)
            left.update(one.outcome for one in batch if one.outcome in _WHY_KEPT)
            deleted, kept = (
                deleted + done,
                kept + sum(not one.is_done and one.outcome not in _WHY_KEPT for one in batch),
            )
            advance(len(batch))
    if not as_json:
        click.echo(f"{common.count_of(deleted, 'task')} deleted")
        if kept:
            others = "another task waits for it" if kept == 1 else "others wait for them"
            click.echo(f"{common.count_of(kept, 'task')} kept, because {others}", err=True)
        for outcome, why in _WHY_KEPT.items():
            if left[outcome]:
                click.echo(f"{common.count_of(left[outcome], 'task')} kept, because {why}", err=True)


_WHY_KEPT = {
    Outcome.OWES: "a node has still to create follow-up tasks",
    Outcome.IN_BATCH: "their batch is not done",
}

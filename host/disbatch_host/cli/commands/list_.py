"""`disbatch-host task list`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import click

from disbatch_host import suggested
from disbatch_host.cli import common, render, selection, task_table
from disbatch_host.cli.frame import common_options
from disbatch_host.cli.kinds import Whole
from disbatch_host.client import listing
from disbatch_host.client.columns import Column, column_of, columns_of
from disbatch_host.client.unknown_names import Unfilled
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.conditions import PAGE_SECONDS, Page
from disbatch_host.documents.records import Task
from disbatch_host.errors import DisbatchError, FieldError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.document import rfc3339, to_json
from disbatch_protocol.status import IN_HAND

_LIST_LIMIT = 50


@click.command("list")
@selection.filter_options
@click.option(
    "--limit",
    type=Whole(1),
    default=_LIST_LIMIT,
    show_default=True,
    metavar="N",
    help="Show at most this many.",
)
@selection.COLUMNS
@click.option("--wide", is_flag=True, help="More columns.")
@click.option(
    "--sort",
    metavar="COLUMN",
    help=f"The first in the order of this column (-COLUMN: the last) of the newest {listing.SORTED_MAX:,}.",
)
@click.option("--cursor", metavar="C", help="Go on where another list ended, which has said how.")
@common_options
def list_(
    filters: Mapping[str, Any], limit: int, columns: Sequence[str], wide: bool, sort: str | None, cursor: str | None
) -> None:
    """List tasks, the newest first.

    \b
      disbatch-host task list --queue mail --status failed --since 2h
      disbatch-host task list --where user=matt --where .error.code!=timeout
      disbatch-host task list --queue mail --columns task,user,result.size,ran --sort -ran
      disbatch-host task list --error timeout --before 2026-11-25 --limit 1000 --json

    If there are more, the last line on stderr is the command that shows the next ones; with --json it is a document
    with `next`, `looked_at` and `is_cut`. What --where and --grep ask for is looked for in the store, for about two
    seconds; if that was not enough, it says how far it got, and how to go on.
    """
    with common.options_named():
        shown = columns_of(columns) if columns else None
        order = None if sort is None else _order(sort)
    if wide and columns:
        raise UsageError("expected either --columns or --wide, found both")
    with common.opened_store() as store:
        which = selection.filter_of(store, filters)
        printer = _Printer(store, shown, is_wide=wide)
        with common.options_named():
            if order is not None:
                _list_sorted(store, which, printer, order, limit, cursor)
            else:
                again = [*selection.words_of(filters), *_words(limit, columns, wide)]
                _list_pages(store, which, printer, limit, cursor, again)


def _words(limit: int, columns: Sequence[str], wide: bool) -> list[str]:
    words = [] if limit == _LIST_LIMIT else ["--limit", str(limit)]
    words += [word for one in columns for word in ("--columns", one)]
    return [*words, "--wide"] if wide else words


def _order(text: str) -> tuple[Column, bool]:
    """The column, and whether the order is descending. Raises FieldError."""
    try:
        return column_of(text.removeprefix("-")), text.startswith("-")
    except FieldError as error:
        raise FieldError("sort", error.reason) from error


class _Printer:
    """Prints tasks: documents as they come, or a table at the end."""

    def __init__(self, store: Store, shown: Sequence[Column] | None, *, is_wide: bool) -> None:
        self._store = store
        self._shown = shown
        self._is_wide = is_wide
        self._now = store.now()
        self.masked = common.masker(store).document
        self._tasks: list[Task] = []

    def add(self, tasks: Sequence[Task]) -> None:
        if not common.wants_json():
            self._tasks += tasks
            return
        for one in tasks:
            document: Mapping[str, Any] = self.masked(one)
            if self._shown is not None:
                values = {column.name: column.value(one, document, self._now) for column in self._shown}
                document = {name: to_json(value, other=self._store.extended_json) for name, value in values.items()}
            render.print_json(document, self._store.extended_json)

    def finish(self) -> None:
        if common.wants_json():
            return
        store, tasks = self._store, self._tasks
        catalog = None
        with contextlib.suppress(DisbatchError):  # a missing plugin directory must not hide the tasks
            catalog = common.catalog()
        around = task_table.Around(
            now=self._now,
            nodes=store.nodes() if any(one.status in IN_HAND for one in tasks) else (),
            queues=store.queues(),
            catalog=catalog,
            other=store.extended_json,
        )
        documents = [self.masked(one) for one in tasks]
        task_table.print_tasks(tasks, documents, around, shown=self._shown, is_wide=self._is_wide)
        unfilled = Unfilled(self._shown or ())
        for task, document in zip(tasks, documents, strict=True):
            unfilled.see(task, document, self._now)
        for note in unfilled.notes(only_near=True):
            click.echo(render.printable(note), err=True)


def _list_pages(
    store: Store, which: TaskFilter, printer: _Printer, limit: int, cursor: str | None, again: Sequence[str]
) -> None:
    """`again`: the options of the command that shows the next ones."""
    count = looked_at = 0
    page: Page | None = None
    for page in listing.pages(store, which, limit=limit, cursor=cursor):
        printer.add(page.tasks)
        count += len(page.tasks)
        looked_at += page.looked_at
    printer.finish()
    if not count and cursor is None:
        selection.say_unmet(store, which)
    if page is None or page.next is None:
        return
    if common.wants_json():
        looked_to = None if page.looked_to is None else rfc3339(page.looked_to)
        end = {"next": page.next, "looked_at": looked_at, "is_cut": page.is_cut, "looked_to": looked_to}
        render.print_json(end, err=True)
        return
    command = suggested.typed("task list", *again, "--cursor", page.next)
    if page.is_cut:
        since = "" if page.looked_to is None else f", back to {render.moment(page.looked_to)},"
        which_ones = "the newest" if cursor is None else "the next"
        within = render.duration(PAGE_SECONDS)
        found = f"{count or 'none'} found in {which_ones} {looked_at:,} tasks{since} within {within}"
        click.echo(f"{found}; to go on: {command}", err=True)
        return
    shown = f"the newest {limit}" if cursor is None else f"{limit} more"
    click.echo(f"{shown}; there are more, --limit shows them, or: {command}", err=True)


def _list_sorted(
    store: Store, which: TaskFilter, printer: _Printer, order: tuple[Column, bool], limit: int, cursor: str | None
) -> None:
    column, descending = order
    found = listing.sorted_tasks(
        store, which, printer.masked, column, store.now(), descending=descending, limit=limit, cursor=cursor
    )
    printer.add(found.tasks)
    printer.finish()
    if not found.is_all:
        click.echo(f"sorted among the newest {found.among:,} tasks only; there are more", err=True)
    elif len(found.tasks) < found.among:
        click.echo(f"the first {len(found.tasks)} of {found.among:,}; --limit shows more", err=True)

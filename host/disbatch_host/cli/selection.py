"""The tasks that a command is about: named by id, or selected by filters.

Responsible for: the options, and the question before many tasks are changed. Must not know: what a selection means
(`client.finding`), what is done with the tasks.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from disbatch_host import suggested
from disbatch_host.cli import common, render, terminal
from disbatch_host.client import columns, conditions, finding, unknown_names
from disbatch_host.client.finding import Selection
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses


def filter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter options; the command gets them as `filters`, for `filter_of`."""
    return some_filter_options(*_FILTERS)(function)


def some_filter_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Some of the filter options, likewise."""

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def with_filters(**given: Any) -> Any:
            filters = {name: given.pop(name) for name in names}
            with common.options_named():
                conditions.conditions_of(filters.get("where") or ())  # wrong ones are refused before a store is asked
            if filters.get("failed"):
                if filters["status"]:
                    raise UsageError("expected either --failed or --status, found both")
                filters["status"] = ("failed",)
            return function(filters=filters, **given)

        wrapped: Callable[..., Any] = with_filters
        for name in reversed(names):
            wrapped = _FILTERS[name](wrapped)
        return wrapped

    return decorated


_FILTERS = {
    "queue": click.option("--queue", metavar="Q", help="Only tasks of this queue."),
    "batch": click.option(
        "--batch", metavar="B", help="Only tasks of this batch: its id, the beginning of it, or @last."
    ),
    "failed": click.option(
        "--failed", is_flag=True, help="Only tasks that failed: the program said so, or they were terminated."
    ),
    "status": click.option(
        "--status",
        multiple=True,
        metavar="STATUS",
        help=(
            f"One of {', '.join(statuses.names())}, or a number; several separated by commas, or repeated. "
            "'failed' is that of --failed; '2+' leaves out terminated tasks."
        ),
    ),
    "node": click.option("--node", metavar="ID", help="Only tasks claimed by this node, now or earlier."),
    "since": click.option("--since", metavar="DURATION|TIME", help="Created at or after this, or within this long."),
    "before": click.option("--before", metavar="DURATION|TIME", help="Created before this, or longer ago than this."),
    "ended_since": click.option(
        "--ended-since", metavar="DURATION|TIME", help="Ended at or after this, or within this long."
    ),
    "failure": click.option(
        "--failure", metavar="KEY", help="Only tasks that failed for this cause; `task failures` shows the keys."
    ),
    "error": click.option("--error", metavar="CODE", help="Only tasks with this error code."),
    "class_name": click.option("--class", "class_name", metavar="CLASS", help="Only tasks that this plugin ran."),
    "version": click.option("--version", metavar="V", help="Only tasks that this version of their plugin ran."),
    "unique_key": click.option("--unique-key", metavar="K", help="Only tasks with this unique key."),
    "where": click.option(
        "--where",
        multiple=True,
        metavar="PATH=VALUE",
        help=(
            "Only tasks with this parameter (user=matt), part of the result (result.size=0) or other field "
            "(.error.code=timeout); PATH!=VALUE: not with it; 'PATH>VALUE', >=, <, <=: for numbers and dates. Several: "
            "all of them hold."
        ),
    ),
    "grep": click.option(
        "--grep", metavar="TEXT", help="Only tasks with this text in the code or message of the error."
    ),
}

_OPTIONS = {"class_name": "class", "unique_key": "unique-key", "ended_since": "ended-since"}
_NARROW = ("queue", "batch", "failure")  # each is enough for a command that changes tasks

COLUMNS = click.option(
    "--columns",
    multiple=True,
    metavar="A,B",
    help=(
        f"These columns: {', '.join(columns.NAMES)}; any other name is a parameter, or a path as with --where "
        "(result.size, .field)."
    ),
)
ALL_BUT_BATCH = tuple(name for name in _FILTERS if name != "batch")
NAMES = click.argument("ids", nargs=-1, metavar="[ID...]")
YES = click.option("--yes", is_flag=True, help="Do not ask; whether a script needs this, see above.")


def filter_of(store: Store, filters: Mapping[str, Any]) -> TaskFilter:
    """The filter for the options. Raises UsageError, and NotFoundError for an unknown queue."""
    with common.options_named(class_name="class"):
        selected = Selection(**{name: one for name, one in filters.items() if name != "failed"})
        return finding.filter_of(store, selected, common.who())


def say_unmet(store: Store, which: TaskFilter) -> None:
    """On stderr, of a filter that has found nothing: what --where asks for and no task has."""
    for note in unknown_names.unmet(store, which) if which.where else ():
        click.echo(render.printable(note), err=True)


def words_of(filters: Mapping[str, Any]) -> list[str]:
    """The options that make these filters, as somebody types them."""
    words: list[str] = []
    for name, value in filters.items():
        option = f"--{_OPTIONS.get(name, name)}"
        if value is True:
            words.append(option)
        elif name != "status" or not filters["failed"]:
            given = value if isinstance(value, tuple) else () if value in (None, False) else (value,)
            words += [word for one in given for word in (option, str(one))]
    return words


def is_named(ids: Sequence[str], filters: Mapping[str, Any], *more: str) -> bool:
    """Whether tasks are named, not filtered. Raises UsageError for both or neither: a command that changes
    tasks needs at least a queue, a batch or a cause of failure. `more`: other filters that were given."""
    given = [*given_options(filters), *more]
    if ids and given:
        raise UsageError(f"expected either task ids or {given[0]}, found both")
    if not ids and given and all(filters[name] is None for name in _NARROW):
        shows = suggested.hint("task list", *words_of(filters))
        raise UsageError(
            f"expected task ids, or --queue Q, --batch B or --failure KEY beside {given[0]}, so that no others are "
            f"changed, found neither; {shows} shows the tasks of all queues"
        )
    if not ids and not given:
        raise UsageError(
            "expected task ids, or --queue Q, --batch B or --failure KEY, and filters; "
            f"{suggested.hint('task list')} shows tasks"
        )
    return bool(ids)


def given_options(filters: Mapping[str, Any]) -> list[str]:
    """The filters that were given, as options."""
    return [f"--{_OPTIONS.get(name, name)}" for name, value in filters.items() if value not in (None, (), False)]


def takes(option: str) -> bool:
    """Whether it is one of the filter options."""
    return option in {f"--{_OPTIONS.get(name, name)}" for name in _FILTERS}


def of_what(filters: Mapping[str, Any]) -> str:
    """The queue, the batch and the cause of failure that the filters name."""
    named = [f"{name} {filters[name]}" for name in _NARROW if filters[name] is not None]
    return f"of {' and '.join(named)}"


def confirm(question: str, count: int, *, yes: bool, is_explicit: bool) -> None:
    """Ask the person at the terminal before more than one task is changed. A script must pass `--yes`, unless the
    selection is explicit (`is_explicit`). Raises UsageError, or Abort."""
    if yes or not count:
        return
    if sys.stdin.isatty():
        if count > 1:
            terminal.confirm(question)
    elif not is_explicit:
        raise UsageError(f"refusing to {question.rstrip('?')} without --yes (stdin is not a terminal)")

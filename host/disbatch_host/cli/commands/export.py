"""`disbatch-host task export` and `batch export`: tasks as NDJSON, or as a table for a spreadsheet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import click

from disbatch_host.cli import bars, common, render, selection
from disbatch_host.cli.frame import common_options
from disbatch_host.cli.kinds import OneOf
from disbatch_host.client import exporting
from disbatch_host.client.batch_finding import batch_id_of
from disbatch_host.client.complete_file import complete_file
from disbatch_host.client.exporting import Shape
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.store.contract import Store

_FILE = click.argument("file", metavar="[FILE | -]", required=False)


def _shape_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is written of each task, and how: the parameters of `exporting.shape_of`."""
    for option in (
        click.option(
            "--with-output", is_flag=True, help="All of stdout and stderr, beyond the first MiB too; in NDJSON."
        ),
        selection.COLUMNS,
        click.option(
            "--delimiter", metavar="D", help="Between the cells of CSV: ';' or 'tab', for instance; or a comma."
        ),
        click.option("--format", "form", type=OneOf(["csv", "tsv", "ndjson"]), help="Instead of what FILE ends in."),
    ):
        function = option(function)
    return function


@click.command()
@_FILE
@selection.filter_options
@_shape_options
@common_options
def export(file: str | None, filters: Mapping[str, Any], **shape: Any) -> None:
    """Write tasks to a file, or to stdout, the oldest first: a table that a spreadsheet opens, if the name ends in .csv
    or .tsv, else whole documents as NDJSON, one per line. With .gz behind it, it is compressed.

    \b
      disbatch-host task export --queue mail mail.csv
      disbatch-host task export --failed --columns task,user,error,message failed.tsv
      disbatch-host task export --status failed --since 2d | jq -r .error.message
      disbatch-host task export --before 30d --with-output old.ndjson.gz

    A table has a column for each parameter and each part of a result that any of the tasks has; --columns names others,
    as in `task list`. Texts that a spreadsheet would take for a formula begin with an apostrophe there.

    Secret parameters are masked as in `task list --json`. The file appears under its name only once it is complete; a
    name that promises another format, such as results.xlsx, is refused.
    """
    _export(file, lambda store: selection.filter_of(store, filters), shape)


@click.command("export")
@click.argument("id")
@_FILE
@selection.some_filter_options(*selection.ALL_BUT_BATCH)
@_shape_options
@common_options
def of_batch(id: str, file: str | None, filters: Mapping[str, Any], **shape: Any) -> None:
    """Write the tasks of a batch to a file, or to stdout, in the order of their creation: a table that a spreadsheet
    opens, if the name ends in .csv or .tsv, else whole documents as NDJSON. `task export --help` says more.

    \b
      disbatch-host batch export @last result.csv
      disbatch-host batch export @last failed.csv --failed
      disbatch-host batch export march march.tsv --columns task,status,user,error,message

    The filters are those of `task export`. A table always has the columns error and message.
    """

    def which_of(store: Store) -> TaskFilter:
        return selection.filter_of(store, {**filters, "batch": batch_id_of(store, id, common.who())})

    _export(file, which_of, shape)


def _export(file: str | None, which_of: Callable[[Store], TaskFilter], options: Mapping[str, Any]) -> None:
    name = None if file in (None, "-") else str(file)
    with common.options_named():
        shape = exporting.shape_of(name, **options)
    with common.opened_store() as store:
        which = which_of(store)
        if name is None:
            _write(store, which, sys.stdout.buffer, shape, None)
            return
        with complete_file(name) as out:
            count = _write(store, which, out, shape, str(Path(name).parent))
        if common.wants_json():
            render.print_json({"exported": count, "file": name})
        else:
            click.echo(f"{common.count_of(count, 'task')} written to {name}")


def _write(store: Store, which: TaskFilter, out: IO[bytes], shape: Shape, spool_directory: str | None) -> int:
    total = store.count_tasks(which) if sys.stderr.isatty() else None
    told = 0
    notes: list[str] = []
    with bars.progress("exporting tasks", total=total) as advance:

        def tell(count: int) -> None:
            nonlocal told
            advance(count - told)
            told = count

        count = exporting.export(
            store, which, common.masker(store).document, out, shape,
            spool_directory=spool_directory, on_progress=tell, on_note=notes.append,
        )  # fmt: skip
    for note in notes:
        click.echo(render.printable(note), err=True)
    if not count:
        selection.say_unmet(store, which)
    return count

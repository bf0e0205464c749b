"""`disbatch-host task export`: tasks as NDJSON, or as a table for a spreadsheet."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import click

from disbatch_host.cli import bars, common, render, selection
from disbatch_host.cli.frame import common_options
from disbatch_host.cli.kinds import OneOf
from disbatch_host.client import exporting
from disbatch_host.client.complete_file import complete_file
from disbatch_host.client.exporting import Shape
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.store.contract import Store


@click.command()
@click.argument("file", metavar="[FILE | -]", required=False)
@selection.filter_options
@click.option("--format", "form", type=OneOf(["csv", "tsv", "ndjson"]), help="Instead of what FILE ends in.")
@click.option("--delimiter", metavar="D", help="Between the cells of CSV: ';' or 'tab', for instance; a comma if not.")
@selection.COLUMNS
@click.option("--with-output", is_flag=True, help="All of stdout and stderr, beyond the first MiB as well; in NDJSON.")
@common_options
def export(
    file: str | None,
    filters: Mapping[str, Any],
    form: str | None,
    delimiter: str | None,
    columns: Sequence[str],
    with_output: bool,
) -> None:
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
    name = None if file in (None, "-") else str(file)
    with common.options_named():
        shape = exporting.shape_of(name, form=form, columns=columns, delimiter=delimiter, with_output=with_output)
    with common.opened_store() as store:
        which = selection.filter_of(store, filters)
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
        click.echo(note, err=True)
    return count

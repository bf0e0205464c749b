"""`disbatch-host task export`: whole task documents as NDJSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import IO, Any

import click

from disbatch_host.cli import bars, common, render, selection
from disbatch_host.cli.frame import common_options
from disbatch_host.client import exporting
from disbatch_host.client.complete_file import complete_file
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.store.contract import Store


@click.command()
@click.argument("file", metavar="[FILE | -]", required=False)
@selection.filter_options
@click.option("--with-output", is_flag=True, help="All of stdout and stderr, beyond the first MiB as well.")
@common_options
def export(file: str | None, filters: Mapping[str, Any], with_output: bool) -> None:
    """Write tasks as NDJSON, one document per line, the oldest first; to a file, or to stdout.

    \b
      disbatch-host task export --queue mail mail.ndjson
      disbatch-host task export --status failed --since 2d | jq -r .error.message
      disbatch-host task export --before 30d --with-output old.ndjson.gz

    Secret parameters are masked as in `task list --json`. The file appears under its name only once it is complete; a
    name that promises another format, such as results.csv, is refused.
    """
    if file is not None:
        exporting.check_name(file)
    with common.opened_store() as store:
        which = selection.filter_of(store, filters)
        shown = common.masker(store).document
        if file in (None, "-"):
            _write(store, which, shown, sys.stdout.buffer, with_output=with_output)
            return
        with complete_file(str(file)) as out:
            count = _write(store, which, shown, out, with_output=with_output)
        if common.wants_json():
            render.print_json({"exported": count, "file": file})
        else:
            click.echo(f"{common.count_of(count, 'task')} written to {file}")


def _write(store: Store, which: TaskFilter, shown: exporting.Shown, out: IO[bytes], *, with_output: bool) -> int:
    total = store.count_tasks(which) if sys.stderr.isatty() else None
    told = 0
    with bars.progress("exporting tasks", total=total) as advance:

        def tell(count: int) -> None:
            nonlocal told
            advance(count - told)
            told = count

        return exporting.export(store, which, shown, out, with_output=with_output, on_progress=tell)

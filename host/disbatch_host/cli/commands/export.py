"""`disbatch-host task export`: whole task documents as NDJSON."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import click

from disbatch_host.cli import common, masking, render, selection
from disbatch_host.cli.frame import common_options
from disbatch_host.client.exporting import lines
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.errors import OutputError, UsageError
from disbatch_host.store.contract import Store

_BUFFER = 2**18


@click.command()
@click.argument("file", metavar="[FILE | -]", required=False)
@selection.filter_options
@click.option("--with-output", is_flag=True, help="All of stdout and stderr, also what is beyond the first MiB.")
@common_options
def export(file: str | None, filters: Mapping[str, Any], with_output: bool) -> None:
    """Write tasks as NDJSON, one document a line, the oldest first; to a file, or to stdout.

    \b
      disbatch-host task export --queue mail mail.ndjson
      disbatch-host task export --status failed --since 2d | jq -r .error.message
      disbatch-host task export --before 30d --with-output old.ndjson.gz

    Secret parameters are masked as in `task list --json`. A file has its name only when everything is in it.
    """
    with common.opened_store() as store:
        which = selection.filter_of(store, filters)
        shown = masking.Masker(store).document
        if file in (None, "-"):
            _write(store, which, shown, sys.stdout.buffer, with_output=with_output)
            return
        with _complete_file(str(file)) as out:
            count = _write(store, which, shown, out, with_output=with_output)
        if common.wants_json():
            render.print_json({"exported": count, "file": file})
        else:
            click.echo(f"{common.count_of(count, 'task')} written to {file}")


def _write(store: Store, which: TaskFilter, shown: Any, out: IO[bytes], *, with_output: bool) -> int:
    total = store.count_tasks(which) if sys.stderr.isatty() else None
    count = told = 0
    with render.progress("exporting tasks", total=total) as advance:
        for piece, is_last in lines(store, which, shown, with_output=with_output):
            out.write(piece)
            count += is_last
            if count - told == 100:
                advance(100)
                told = count
        advance(count - told)
    out.flush()
    return count


@contextlib.contextmanager
def _complete_file(name: str) -> Iterator[IO[bytes]]:
    """A file that has its name only when the block has ended well; until then it has another one beside it. What is no
    plain file (a pipe, a device) is written as it is."""
    path = Path(name)
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            if path.is_dir():
                raise UsageError(f"expected the name of a file, found a directory: {name}")
            with path.open("wb", buffering=_BUFFER) as out:
                yield out
            return
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb", buffering=_BUFFER) as plain:
                if name.endswith(".gz"):
                    with gzip.GzipFile(filename="", mode="wb", fileobj=plain, compresslevel=6) as packed:
                        yield packed  # type: ignore[misc]
                else:
                    yield plain
                plain.flush()
                os.fsync(plain.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"file {name} cannot be written: {error.strerror}") from error

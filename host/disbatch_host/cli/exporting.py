"""`disbatch-host task export`: whole task documents as NDJSON."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from disbatch_host.bulk.exporting import lines
from disbatch_host.cli import common, render
from disbatch_host.cli.creation import moment_of
from disbatch_host.cli.main import common_options
from disbatch_host.errors import OutputError, UsageError
from disbatch_host.model import TaskFilter
from disbatch_host.store.base import Store
from disbatch_protocol import status as statuses

_BUFFER = 2**18


@click.command()
@click.argument("file", metavar="[FILE | -]", required=False)
@click.option("--queue", metavar="Q", help="Only of this queue.")
@click.option("--status", "status_word", metavar="STATUS", help=f"One of {', '.join(statuses.names())}, or a number.")
@click.option("--since", metavar="TIME", help="Created at this time or after; or within a length of time, like 2d.")
@click.option("--before", metavar="TIME", help="Created before this time; or so long ago or longer.")
@click.option("--with-output", is_flag=True, help="All of stdout and stderr, also what is beyond the first MiB.")
@common_options
def export(
    file: str | None,
    queue: str | None,
    status_word: str | None,
    since: str | None,
    before: str | None,
    with_output: bool,
) -> None:
    """Write tasks as NDJSON, one document a line, the oldest first; to a file, or to stdout.

    \b
      disbatch-host task export --queue mail mail.ndjson
      disbatch-host task export --status failed --since 2d | jq -r .error.message
      disbatch-host task export --before 30d --with-output old.ndjson.gz

    Secret parameters are masked as in `task list --json`. A file has its name only when everything is in it.
    """
    from disbatch_host.cli import task  # noqa: PLC0415  (which has this command)

    values, failed_too = None, False
    if status_word is not None:
        try:
            values, failed_too = statuses.parse(status_word)
        except ValueError as error:
            raise UsageError(f"--status: {error}") from error
    with common.opened_store() as store:
        now = store.now()
        which = TaskFilter(
            queue=None if queue is None else task._queue_id(store, queue),
            statuses=values,
            failed_too=failed_too,
            created_since=None if since is None else moment_of("--since", since, now, sign=-1),
            created_before=None if before is None else moment_of("--before", before, now, sign=-1),
        )
        shown = task._Masker(store).document
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

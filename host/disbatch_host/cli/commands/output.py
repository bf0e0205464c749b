"""`disbatch-host task output`: of one task, or of many."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import click

from disbatch_host import suggested
from disbatch_host.cli import common, results, selection, terminal
from disbatch_host.cli.frame import common_options
from disbatch_host.cli.kinds import OneOf, Whole
from disbatch_host.cli.output_printers import BytesPrinter, DocumentPrinter, LineDocumentPrinter, LinePrinter
from disbatch_host.client.finding import find_task
from disbatch_host.client.output import (
    Piece,
    attempt_pieces,
    follow_output,
    is_binary,
    output_pieces,
    run_of_attempt,
    tail_start,
)
from disbatch_host.client.outputs import STREAMS, Said, outputs, outputs_of_attempt
from disbatch_host.client.outputs_followed import follow_outputs
from disbatch_host.documents.batch import Batch
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Task
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store

ATTEMPT_MAX = 2**31 - 1

_BOTH = "both"


@click.command()
@click.argument("id", required=False)
@selection.filter_options
@click.option("--stream", type=OneOf([*STREAMS, _BOTH]), help="Print this stream, or both, instead of stdout.")
@click.option("--stderr", "wants_stderr", is_flag=True, help="The same as --stream stderr.")
@click.option("--attempt", type=Whole(1, ATTEMPT_MAX), metavar="N", help="Of this attempt instead of the last one.")
@click.option("--tail", type=Whole(0), metavar="N", help="Print only the last N lines, of each task.")
@click.option("--follow", is_flag=True, help="Keep printing until the task, or the batch, has ended.")
@click.option("--raw", is_flag=True, help="Print control characters on a terminal as well.")
@common_options
def output(
    id: str | None,
    filters: Mapping[str, Any],
    stream: str | None,
    wants_stderr: bool,
    attempt: int | None,
    tail: int | None,
    follow: bool,
    raw: bool,
) -> None:
    """Print the output of a task, or of all tasks of a queue, a batch or other filters, each line with the task's id,
    shortened as far as only this task has it. With --json, as text in documents, one per line.

    Into a pipe or a file it is printed unchanged; on a terminal without control characters (colors, cursor movements,
    titles), unless --raw is given. Output that is not text (`"encoding": "binary"`) is printed into a file or a pipe
    only; of many tasks, there is a line about it.

    \b
      disbatch-host task output 5f0c… --follow
      disbatch-host task output 5f0c… --attempt 1 --stream both --tail 20
      disbatch-host task output --batch @last --failed --stream both --tail 5
      disbatch-host task output --queue mail --follow --tail 0 | grep -i error

    Many tasks come in the order of their creation. With --follow, what they and new ones print comes as soon as a line
    is whole, so lines are never mixed; it ends when the batch is done, without a batch with Ctrl-C.

    The outputs of the last three attempts are kept, or as many as `keep_attempts` of the queue says.
    """
    streams = _streams_of(stream, wants_stderr=wants_stderr)
    given = selection.given_options(filters)
    if id is not None and given:
        raise UsageError(f"expected either the id of a task or {given[0]}, found both")
    if id is None and not given:
        raise UsageError(
            "expected the id of a task, or --queue Q, --batch B or another filter; "
            f"{suggested.hint('task list')} shows tasks"
        )
    if attempt is not None:
        _check_attempt(id, follows=follow)
    with common.opened_store() as store:
        if id is None:
            which = selection.filter_of(store, filters)
            _print_lines(store, _said(store, which, streams, tail, follows=follow), streams, is_raw=raw)
            return
        found = find_task(store, id, common.who())
        if len(streams) == 1:
            _print_one(store, found, streams[0], attempt, tail, follows=follow, is_raw=raw)
            return
        if attempt is None:
            said = _said(store, TaskFilter(ids=[found.id]), streams, tail, follows=follow)
        else:
            said = outputs_of_attempt(store, found, attempt, streams, tail=tail)
        _print_lines(store, said, streams, is_raw=raw, is_one=True)


def _check_attempt(id: str | None, *, follows: bool) -> None:
    if follows:
        raise UsageError("expected either --attempt or --follow, found both; --follow shows the attempt that runs")
    if id is None:
        raise UsageError("--attempt is for one task: expected its id")


def _streams_of(stream: str | None, *, wants_stderr: bool) -> tuple[str, ...]:
    if wants_stderr and stream not in (None, "stderr"):
        raise UsageError(f"expected either --stderr or --stream {stream}, found both")
    if stream == _BOTH:
        return STREAMS
    return ("stderr",) if wants_stderr else (stream or "stdout",)


def _stdout(*, is_raw: bool) -> BinaryIO:
    """Cleaned on a terminal, unless it `is_raw`."""
    return terminal.raw(sys.stdout) if is_raw else sys.stdout.buffer


def _print_one(
    store: Store, found: Task, stream: str, attempt: int | None, tail: int | None, *, follows: bool, is_raw: bool
) -> None:
    run = found.run if attempt is None else run_of_attempt(found, attempt)
    if is_binary(run, stream) and (common.wants_json() or sys.stdout.isatty()):
        words = [*(["--stderr"] if stream == "stderr" else []), *([] if attempt is None else ["--attempt", attempt])]
        raise UsageError(
            f"the {stream} of task {found.id} is not text; write it into a file: "
            f"{suggested.hint('task output', found.id, *words, then=' > FILE')}"
        )
    printer = DocumentPrinter(found.id, stream) if common.wants_json() else BytesPrinter(_stdout(is_raw=is_raw))
    if follows:
        for piece in follow_output(store, found.id, stream, results.say_still, tail=tail):
            if piece is None:
                printer.pause()
            else:
                printer.add(piece)
    else:
        for data in _pieces(store, found, stream, attempt, tail):
            printer.add(Piece(data=data))
    printer.finish()


def _pieces(store: Store, found: Task, stream: str, attempt: int | None, tail: int | None) -> Iterator[bytes]:
    start = 0 if tail is None else tail_start(store, found, stream, tail, attempt=attempt)
    if attempt is not None:
        return attempt_pieces(store, found, attempt, stream, start=start)
    return output_pieces(store, found, stream, start=start)


def _print_lines(
    store: Store, found: Iterator[Said | None], streams: tuple[str, ...], *, is_raw: bool, is_one: bool = False
) -> None:
    def prefix_of(said: Said) -> str:
        of_stream = f"{said.stream}: " if len(streams) > 1 else ""
        return of_stream if is_one else f"{said.short_id} {of_stream}" if of_stream else f"{said.short_id}: "

    printer = (
        LineDocumentPrinter(store)
        if common.wants_json()
        else LinePrinter(prefix_of, _stdout(is_raw=is_raw), is_cleaned=sys.stdout.isatty() and not is_raw)
    )
    with common.options_named():
        for said in found:
            if said is None:
                printer.pause()
            else:
                printer.add(said)
    printer.finish()


def _said(
    store: Store, which: TaskFilter, streams: tuple[str, ...], tail: int | None, *, follows: bool
) -> Iterator[Said | None]:
    if not follows:
        return outputs(store, which, streams, tail=tail)
    opened: set[str] = set()

    def say_open_once(batch: Batch) -> None:
        if batch.id not in opened:
            opened.add(batch.id)
            results.say_open(batch)

    return follow_outputs(store, which, streams, tail=tail, on_still=results.say_still, on_open=say_open_once)

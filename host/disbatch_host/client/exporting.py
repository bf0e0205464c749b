"""Tasks in a file: whole documents as lines of JSON, with output of any length, or tables; in bounded memory.

Responsible for: reading very many tasks, and writing each of them in the wanted shape. Must not know: terminals, files,
which parts of a task are secret, how a table is written (`tables`).
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

import orjson

from disbatch_host.client import tables
from disbatch_host.client.columns import Column, columns_of
from disbatch_host.client.output import output_pieces
from disbatch_host.client.tables import Format
from disbatch_host.client.unknown_names import Unfilled
from disbatch_host.documents.changes import INLINE_OUTPUT_MAX, TaskFilter
from disbatch_host.documents.records import Document, Task, whole_number
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.document import readable_line

_GROUP_TASKS = 500  # read at once with their output
_GROUP_BYTES = 16 * 2**20  # of output in the documents of a group
_TOLD_TASKS = 100  # between calls of `on_progress`
_STREAMS = ("stdout", "stderr")

Shown = Callable[[Task], Mapping[str, Any]]  # a task's document, safe to show


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is written of each task, and how."""

    form: Format = Format.NDJSON
    columns: tuple[Column, ...] | None = None  # None: whole documents, or the usual columns of a table
    delimiter: str = ","
    with_output: bool = False  # all of stdout and stderr, beyond what the document holds


def shape_of(
    name: str | None,
    *,
    form: str | None = None,
    columns: str | Sequence[str] = (),
    delimiter: str | None = None,
    with_output: bool = False,
) -> Shape:
    """The shape that suits a file's name, unless another one is given. Raises UsageError, FieldError among them."""
    found = tables.format_of(name, form)
    if with_output and (columns or found is not Format.NDJSON):
        other = "columns" if columns else found.upper()
        raise UsageError(f"with_output is for whole documents in NDJSON, found {other}")
    return Shape(
        form=found,
        columns=columns_of(columns) if columns else None,
        delimiter=tables.delimiter_of(delimiter, found),
        with_output=with_output,
    )


def export(
    store: Store,
    which: TaskFilter,
    shown: Shown,
    out: IO[bytes],
    shape: Shape = Shape(),
    *,
    spool_directory: str | None = None,
    on_progress: Callable[[int], object] = lambda _: None,
    on_note: Callable[[str], object] = lambda _: None,
) -> int:
    """Write the tasks to an open file, the oldest first; returns their number. `on_progress` gets the number so far,
    now and then and at the end; `on_note` what a reader of the file should know. `spool_directory`: for what a table
    with columns of its own is kept in until it is whole."""
    count = 0
    for is_whole in _written(store, which, shown, out, shape, spool_directory, on_note):
        count += is_whole
        if is_whole and count % _TOLD_TASKS == 0:
            on_progress(count)
    on_progress(count)
    out.flush()
    return count


def _written(
    store: Store,
    which: TaskFilter,
    shown: Shown,
    out: IO[bytes],
    shape: Shape,
    spool_directory: str | None,
    on_note: Callable[[str], object],
) -> Iterator[bool]:
    """Writes piece by piece; True after the last one of each task."""
    if shape.form is Format.NDJSON and shape.columns is None:
        for piece, is_last in lines(store, which, shown, with_output=shape.with_output):
            out.write(piece)
            yield is_last
        return
    now = store.now()
    unfilled = Unfilled(shape.columns or ())
    rows = _seen(((found, shown(found)) for found in store.find_tasks(which, with_output=False)), unfilled, now)
    if shape.form is Format.NDJSON:
        for _ in tables.write_lines(rows, shape.columns or (), out, now, store.extended_json):
            yield True
        _tell(unfilled, on_note)
        return
    table = tables.Table(
        out=out, delimiter=shape.delimiter, has_mark=shape.form is Format.CSV, now=now, other=store.extended_json,
        spool_directory=spool_directory,
    )  # fmt: skip
    for _ in table.write(rows, shape.columns):
        yield True
    _tell(unfilled, on_note)
    if table.left_over:
        on_note(
            f"{table.left_over} parameters and parts of results have no column of their own, since there are more than "
            f'{tables.COLUMNS_MAX}; they are in the column "more", as JSON'
        )


def _seen(rows: Iterator[tables.ToldRow], unfilled: Unfilled, now: datetime) -> Iterator[tables.ToldRow]:
    for task, document in rows:
        unfilled.see(task, document, now)
        yield task, document


def _tell(unfilled: Unfilled, on_note: Callable[[str], object]) -> None:
    for note in unfilled.notes():
        on_note(note)


def lines(store: Store, which: TaskFilter, shown: Shown, *, with_output: bool) -> Iterator[tuple[bytes, bool]]:
    """The lines of the tasks in the order of creation, in pieces; True marks the last piece of each line.

    `with_output`: stdout and stderr are everything that was kept; otherwise what the document holds, at
    most the first 1 MiB. A task that is deleted meanwhile is left out."""
    for found in _with_documents(store, which):
        document = dict(shown(found))
        if not with_output:
            yield readable_line(document, other=store.extended_json) + b"\n", True
            continue
        for name in _STREAMS:
            document.pop(name, None)
        # A stream may be larger than memory: its text is written piece by piece, at the end of the object.
        yield readable_line(document, other=store.extended_json)[:-1], False
        for name in _STREAMS:
            yield b',"' + name.encode() + b'":"', False
            for text in _decoded(output_pieces(store, found, name)):
                yield orjson.dumps(text)[1:-1], False
            yield b'"', False
        yield b"}\n", True


def _decoded(pieces: Iterator[bytes]) -> Iterator[str]:
    """Bytes as text; a character may span two pieces."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        yield decoder.decode(piece)
    yield decoder.decode(b"", True)


def _with_documents(store: Store, which: TaskFilter) -> Iterator[Task]:
    """The tasks with the output in their documents: up to a megabyte each, so only a few at a time."""
    group: list[Task] = []
    size = 0
    for found in store.find_tasks(which, with_output=False):
        own = _output_size(found.document)
        if group and (len(group) == _GROUP_TASKS or size + own > _GROUP_BYTES):
            yield from _read(store, group)
            group, size = [], 0
        group.append(found)
        size += own
    if group:
        yield from _read(store, group)


def _read(store: Store, group: list[Task]) -> Iterator[Task]:
    ids = [one.id for one in group]
    yield from store.find_tasks(TaskFilter(ids=ids))


def _output_size(document: Document | Mapping[str, Any]) -> int:
    """An upper bound for the output in a task's document, in bytes."""
    run = document.get("run")
    if not isinstance(run, Mapping):  # not run by this program: most are waiting and have none
        return 0 if document.get("node") in (None, -1) else INLINE_OUTPUT_MAX
    output = run.get("output")
    output = output if isinstance(output, Mapping) else {}
    total = 0
    for name in _STREAMS:
        facts = output.get(name)
        size = whole_number(facts.get("bytes")) if isinstance(facts, Mapping) else None
        total += INLINE_OUTPUT_MAX if size is None else min(size, INLINE_OUTPUT_MAX)
    return total

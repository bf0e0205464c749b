"""An export in steps, each of which may use another connection to the store: for a server, whose readers may be slow.

Responsible for: where an export is, and bounded memory. Must not know: who reads it, which parts of a task are secret;
`exporting` and `tables` have the forms.

Rules:
1. A step takes about `STEP_BYTES` of what is in the store, however large tasks and outputs are.
2. Lines end with `{"end": n}`, so that a reader sees whether it was all. A task that is deleted meanwhile is left out.
"""

from __future__ import annotations

import codecs
import io
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import islice
from typing import IO, Any

import orjson

from disbatch_host.client import tables
from disbatch_host.client.exporting import Shape
from disbatch_host.client.output import output_pieces
from disbatch_host.client.tables import Format, Table, ToldRow
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Task, TaskId
from disbatch_host.store.contract import Store
from disbatch_protocol.document import readable_line

PAGE = 500  # tasks whose ids are held
STEP_BYTES = 2**20
_ROWS = 2000  # of a table whose columns are known, in a step
_STREAMS = ("stdout", "stderr")

Shown = Callable[[Task], Mapping[str, Any]]  # a task's document, safe to show


class PagedExport:
    """One export. `spool_directory`: for a table whose columns are known only at its end."""

    def __init__(self, which: TaskFilter, shape: Shape, spool_directory: str | None = None) -> None:
        self._tasks = _Tasks(which)
        self._shape = shape
        self._spool_directory = spool_directory
        self._lines = _Lines(shape) if shape.form is Format.NDJSON else None
        self._table: _Table | None = None
        self._is_over = False

    def next(self, store: Store, shown: Shown) -> bytes | None:
        """Some more of it, perhaps nothing yet; None: that was all."""
        if self._is_over:
            return None
        if self._lines is not None:
            found = self._lines.next(store, self._tasks, shown)
        else:
            if self._table is None:
                self._table = _Table(store, self._shape, self._spool_directory)
            found = self._table.next(store, self._tasks, shown)
        self._is_over = found is None
        return found

    def close(self) -> None:
        if self._table is not None:
            self._table.close()


class _Tasks:
    """The tasks of a filter, the oldest first, without output."""

    def __init__(self, which: TaskFilter) -> None:
        self._which = which
        self._ids: list[TaskId] = []
        self._cursor: str | None = None
        self.is_over = False  # once the ids that are held are used up

    def some(self, store: Store) -> Generator[Task]:
        """The next ones, of which as many are used up as were taken."""
        if not self._ids and not self.is_over:
            page = store.find_page(
                self._which, limit=PAGE, newest_first=False, cursor=self._cursor, with_parameters=False
            )
            self._ids, self._cursor = [one.id for one in page.tasks], page.next
            self.is_over = page.next is None
        if not self._ids:
            return
        left, self._ids = self._ids, []
        place = {one: number for number, one in enumerate(left)}
        taken = 0
        try:
            for task in store.find_tasks(TaskFilter(ids=left), with_output=False):
                taken = place[task.id] + 1
                yield task
            taken = len(left)
        finally:
            self._ids = left[taken:]

    @property
    def is_used_up(self) -> bool:
        return self.is_over and not self._ids


class _Lines:
    """NDJSON."""

    def __init__(self, shape: Shape) -> None:
        self._columns = shape.columns
        self._has_output = shape.with_output
        self._count = 0
        self._streams: _Streams | None = None  # of a task whose line is not complete
        self._is_over = False

    def next(self, store: Store, tasks: _Tasks, shown: Shown) -> bytes | None:
        if self._is_over:
            return None
        out = io.BytesIO()
        if self._streams is None:
            self._write_some(store, tasks, shown, out)
        elif self._streams.write_some(store, out):
            self._streams = None
        if tasks.is_used_up and self._streams is None:
            out.write(orjson.dumps({"end": self._count}) + b"\n")
            self._is_over = True
        return out.getvalue()

    def _write_some(self, store: Store, tasks: _Tasks, shown: Shown, out: IO[bytes]) -> None:
        found = tasks.some(store)
        if self._columns is not None:
            rows = ((one, shown(one)) for one in found)
            for _ in tables.write_lines(rows, self._columns, out, store.now(), store.extended_json):
                self._count += 1
                if out.tell() >= STEP_BYTES:
                    break
        else:
            for task in found:
                self._count += 1
                line = readable_line(dict(shown(task)), other=store.extended_json)
                if self._has_output:
                    out.write(line[:-1])
                    self._streams = _Streams(task)
                    break
                out.write(line + b"\n")
                if out.tell() >= STEP_BYTES:
                    break
        found.close()


class _Streams:
    """The output of one task, as the last members of its object."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._left = list(_STREAMS)
        self._start = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write_some(self, store: Store, out: IO[bytes]) -> bool:
        """Whether that was all of it."""
        task = self._task
        name = self._left[0]
        if self._start == 0:
            # What is in the document was left out, to read no more than is needed.
            found = next(iter(store.find_tasks(TaskFilter(ids=[task.id]))), None)
            task = task if found is None or found.run.get("token") != task.run.get("token") else found
            out.write(b',"' + name.encode() + b'":"')
        size = 0
        for piece in output_pieces(store, task, name, start=self._start):
            out.write(orjson.dumps(self._decoder.decode(piece))[1:-1])
            size += len(piece)
            if size >= STEP_BYTES:
                self._start += size
                return False
        out.write(orjson.dumps(self._decoder.decode(b"", True))[1:-1] + b'"')
        self._decoder.reset()
        self._left.pop(0)
        self._start = 0
        if not self._left:
            out.write(b"}\n")
        return not self._left


class _Table:
    """CSV."""

    def __init__(self, store: Store, shape: Shape, spool_directory: str | None) -> None:
        self._out = io.BytesIO()
        self._table = Table(
            out=self._out, delimiter=shape.delimiter, has_mark=shape.form is Format.CSV, now=store.now(),
            other=store.extended_json, spool_directory=spool_directory,
        )  # fmt: skip
        self._fed: list[ToldRow] = []
        self._spool: IO[bytes] | None = None
        if shape.columns is None:
            self._spool = tempfile.TemporaryFile(dir=spool_directory)  # noqa: SIM115  (see `close`)
            self._writing = self._table.add_to_spool(self._rows(), self._spool)
        else:
            self._writing = self._table.write_rows(self._rows(), shape.columns)
        self._written: Iterator[None] | None = None

    def _rows(self) -> Iterator[ToldRow]:
        """One for each time that the table is asked to write one."""
        while self._fed:
            yield self._fed.pop()

    def next(self, store: Store, tasks: _Tasks, shown: Shown) -> bytes | None:
        if self._written is not None:
            count = sum(1 for _ in islice(self._written, _ROWS))
            data = self._taken()
            return data if data or count else None
        found = tasks.some(store)
        size = 0
        for task in found:
            document = shown(task)
            self._fed.append((task, document))
            next(self._writing)
            size += _size_of(document)
            if size >= STEP_BYTES:
                break
        found.close()
        if tasks.is_used_up:
            next(self._writing, None)  # the header, where there was no row
            self._written = iter(()) if self._spool is None else self._table.write_spooled(self._spool)
        return self._taken()

    def _taken(self) -> bytes:
        data = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return data

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()


def _size_of(document: Mapping[str, Any]) -> int:
    """About as many bytes as its parameters and its result have: what may be large in it."""
    return len(repr(document.get("parameters"))) + len(repr(document.get("result")))

"""How output is printed: as it is, as documents, or line by line with the task that said it.

Responsible for: prefixes, whole lines, and the documents of --json. Must not know: where output comes from.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Callable
from typing import BinaryIO

from disbatch_host.cli import render
from disbatch_host.client.output import Piece
from disbatch_host.client.outputs import Said
from disbatch_host.documents.records import TaskId
from disbatch_host.store.contract import Store

_LINES = re.compile("[^\n]*\n|[^\n]+")


class BytesPrinter:
    """Prints the output of one task."""

    def __init__(self, stdout: BinaryIO) -> None:
        self._stdout = stdout

    def add(self, piece: Piece) -> None:
        self._stdout.write(piece.data)

    def pause(self) -> None:
        """There is no more for now."""
        self._stdout.flush()

    def finish(self) -> None:
        self._stdout.flush()


class DocumentPrinter:
    """Prints a document for the output of one task up to each pause; an empty one only if there is none at all."""

    def __init__(self, task_id: TaskId, stream: str) -> None:
        self._task_id = task_id
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text: list[str] = []
        self._has_printed = False

    def add(self, piece: Piece) -> None:
        if piece.is_first:
            self._decoder.reset()
        self._text.append(self._decoder.decode(piece.data))

    def pause(self) -> None:
        if any(self._text):
            self._print()

    def finish(self) -> None:
        if any(self._text) or not self._has_printed:
            self._print()

    def _print(self) -> None:
        render.print_json({"_id": self._task_id, "stream": self._stream, "text": "".join(self._text)})
        self._text, self._has_printed = [], True


class LinePrinter:
    """Prints the output of many tasks, each line behind `prefix_of` it."""

    def __init__(self, prefix_of: Callable[[Said], str], stdout: BinaryIO, *, is_cleaned: bool) -> None:
        """`is_cleaned`: `stdout` takes a carriage return for a line end, so a prefix has to follow it."""
        self._stdout = stdout
        self._is_cleaned = is_cleaned
        self._prefix_of = prefix_of
        self._last: tuple[object, ...] = ()
        self._is_open = False  # the line

    def add(self, said: Said) -> None:
        stream = (said.task_id, said.stream)
        if said.is_first or stream != self._last:
            self._end_line()
            self._last = stream
        data = said.data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if self._is_cleaned else said.data
        prefix = _one_line(self._prefix_of(said))
        self._stdout.write(b"" if self._is_open else prefix)
        self._is_open = not data.endswith(b"\n")
        lines = data if self._is_open else data[:-1]
        self._stdout.write(lines.replace(b"\n", b"\n" + prefix))
        self._stdout.write(b"" if self._is_open else b"\n")

    def pause(self) -> None:
        self._stdout.flush()

    def finish(self) -> None:
        self._end_line()
        self._stdout.flush()

    def _end_line(self) -> None:
        if self._is_open:
            self._stdout.write(b"\n")
        self._is_open = False


class LineDocumentPrinter:
    """Prints a document for each line, with its line end; several for a very long one. Joined, the texts of a task are
    its output."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._last: tuple[object, ...] = ()

    def add(self, said: Said) -> None:
        if said.is_first or (said.task_id, said.stream) != self._last:
            self._decoder.reset()
            self._last = (said.task_id, said.stream)
        for text in _LINES.findall(self._decoder.decode(said.data)):
            document = {"_id": said.task_id, "stream": said.stream, "text": text}
            render.print_json(document, self._store.extended_json)

    def pause(self) -> None:
        sys.stdout.flush()

    def finish(self) -> None:
        sys.stdout.flush()


def _one_line(prefix: str) -> bytes:
    return render.printable(prefix).replace("\n", " ").encode()

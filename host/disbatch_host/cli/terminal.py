"""What a command writes, on its way to the terminal: nobody's data moves the cursor, sets a title or fills a clipboard.

Responsible for: stdout and stderr for the length of a command. Must not know: what is written.

Rules:
1. Text loses its control characters wherever it goes: what is piped today is on a screen tomorrow.
2. Bytes (a plugin's output, a document) are written unchanged into a pipe or a file, and cleaned on a terminal. Only
   `raw` goes past that, for a person who asks for it.
3. Of the sequences in a text only this program's own styles pass, which carry a number that no data can hold
   (`render.style`).
4. rich draws past all this (`unguarded`, see `bars`): its sequences are its own, and the texts that it draws have been
   through `render.printable`.
"""

from __future__ import annotations

import codecs
import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TextIO, cast

import click

from disbatch_host.cli import render


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """stdout and stderr are cleaned until the end of the block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", Guarded(one)) for one in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def confirm(question: str) -> None:
    """Goes on only after a yes. The interpreter writes the question past what is guarded. Raises click.Abort."""
    click.confirm(render.printable(question), abort=True, err=True)


def unguarded(stream: TextIO) -> TextIO:
    """The stream that is behind a guarded one."""
    while isinstance(stream, Guarded):
        stream = stream.behind
    return stream


def raw(stream: TextIO) -> BinaryIO:
    """The bytes of a stream, unchanged even on a terminal."""
    return unguarded(stream).buffer


class Guarded:
    """A text stream that is cleaned; in all else the stream behind it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.behind = stream
        self.buffer: Any = GuardedBytes(stream) if stream.isatty() else stream.buffer

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"expected str, found {type(text).__name__}")
        _write(self._stream, render.with_own_styles(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class GuardedBytes:
    """The bytes of a terminal: shown as text, with a line end for each carriage return that a program writes over its
    line with."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._was_return = False

    def write(self, data: bytes) -> int:
        if isinstance(data, str):
            raise TypeError("expected bytes, found str")
        text = self._decoder.decode(bytes(data))
        if self._was_return and text.startswith("\n"):
            text = text[1:]
        if text:
            self._was_return = text.endswith("\r")
        _write(self._stream, render.printable(text.replace("\r\n", "\n").replace("\r", "\n")))
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:  # a terminal that is not UTF-8
        stream.write(text.encode(stream.encoding, "replace").decode(stream.encoding))

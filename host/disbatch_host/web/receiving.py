"""Bodies as they come in: JSON, lines of it, and files that go to the spool while they are read.

Responsible for: the forms of a body, and a bound on each. Must not know: routes, what becomes of a file.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.spool import Received, Spool

FILES = ("text/csv", "text/tab-separated-values", "application/x-ndjson", "application/gzip", "application/x-gzip")
_ENDINGS = {"text/csv": ".csv", "text/tab-separated-values": ".tsv", "application/x-ndjson": ".ndjson"}
_MULTIPART = "multipart/form-data"
_ANY = "application/octet-stream"
_BLOCK = 2**20
_NAME_MAX = 200
_DIGITS_MAX = 20  # of a length: all of a larger number says no more
_DISCARD_SECONDS = 30.0


def json_of(data: bytes) -> Any:
    """Raises Problem."""
    try:
        return orjson.loads(data)
    except ValueError as error:
        raise Problem(Code.BODY, f"expected JSON, found something else: {error}") from error


def lines_of(data: bytes) -> list[Any]:
    """The values of the lines that are not empty, without a last one `{"end": n}` after n others. Raises Problem, which
    names the line."""
    found: list[Any] = []
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            try:
                found.append(orjson.loads(line))
            except ValueError as error:
                raise Problem(Code.BODY, f"line {number}: expected JSON, found something else: {error}") from error
    return found[:-1] if found and found[-1] == {"end": len(found) - 1} else found


async def received(spool: Spool, request: Request, by: str) -> Received:
    """The file that a request consists of, or brings along, in the spool. Raises Problem, and ConnectionResetError if
    its sender goes away."""
    declared = request.headers.get("content-length", "")
    most = spool.bytes_max + _BLOCK  # with what a form has besides the file
    if declared.isdigit() and int(declared[:_DIGITS_MAX]) > most:
        raise spool.too_large()
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    media_type = kind.decode("latin-1").lower()
    if media_type == _MULTIPART:
        boundary = options.get(b"boundary")
        if not boundary:
            raise Problem(Code.MEDIA, "expected multipart/form-data with a boundary")
        parts = _FilePart(boundary)
        blocks, name = parts.blocks(_bounded(request.stream(), most, spool)), lambda: parts.name
    elif media_type in (*FILES, _ANY):
        blocks, name = request.stream(), lambda: _name_in(request) or f"upload{_ENDINGS.get(media_type, '')}"
    else:
        raise Problem(Code.MEDIA, f"expected a file of {', '.join(FILES)} or {_MULTIPART}, found {media_type!r:.80}")
    try:
        return await _kept(spool, blocks, name, by)
    except ClientDisconnect as error:
        raise ConnectionResetError from error


async def _bounded(stream: AsyncIterator[bytes], most: int, spool: Spool) -> AsyncIterator[bytes]:
    """At most so many bytes of it. Raises Problem: a form may have parts without end that are no file."""
    count = 0
    async for block in stream:
        count += len(block)
        if count > most:
            raise spool.too_large()
        yield block


async def discard(request: Request) -> None:
    """Read what is left of a body that is not taken: a browser shows an answer only once it has sent all, and what
    closes the connection before looks to it like a network that has failed. Bounded in time."""
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):  # the last: all of it was read
        async with asyncio.timeout(_DISCARD_SECONDS):
            async for _ in request.stream():
                pass


def _name_in(request: Request) -> str:
    """What a sender calls a file that is the whole body; without a name, one that ends as files of its kind do."""
    _, options = parse_options_header(request.headers.get("content-disposition", ""))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return _shown(options.get(b"filename", b"")) or f"upload{_ENDINGS.get(kind, '')}"


async def _kept(spool: Spool, blocks: AsyncIterator[bytes], name: Any, by: str) -> Received:
    with spool.receiving() as file:
        held = bytearray()
        async for block in blocks:
            held += block
            if len(held) >= _BLOCK:
                await asyncio.to_thread(file.add, bytes(held))
                held.clear()
        await asyncio.to_thread(file.add, bytes(held))
        return await asyncio.to_thread(file.finish, name() or "upload", by)


class _FilePart:
    """The first file of a form. Everything else in the form is passed over."""

    def __init__(self, boundary: bytes) -> None:
        self.name = ""
        self._field = bytearray()
        self._value = bytearray()
        self._data = bytearray()
        self._is_wanted = False
        self._has_file = False
        self._is_whole = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._header,
                "on_part_data": self._add,
                "on_end": self._end,
            },
        )

    async def blocks(self, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Its content. Raises Problem if there is no file."""
        async for block in stream:
            try:
                self._parser.write(block)
            except ValueError as error:  # the parser's own are of this kind
                raise Problem(Code.BODY, f"expected a form, found something else: {error}") from error
            if self._data:
                yield bytes(self._data)
                self._data.clear()
        if not self._has_file or not self._is_whole:
            raise Problem(Code.BODY, "expected a form with a file, found none, or not its end")

    def _begin(self) -> None:
        self._is_wanted = False

    def _header(self) -> None:
        field, value = bytes(self._field).lower(), bytes(self._value)
        self._field.clear()
        self._value.clear()
        if field == b"content-disposition" and not self._has_file:
            _, options = parse_options_header(value)
            if b"filename" in options:
                self.name = _shown(options[b"filename"])
                self._is_wanted = self._has_file = True

    def _add(self, data: bytes, start: int, end: int) -> None:
        if self._is_wanted:
            self._data += data[start:end]

    def _end(self) -> None:
        self._is_whole = True


def _shown(name: bytes) -> str:
    """A file's name as logs and documents can show it; of a path, its last part."""
    text = name.decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    return "".join(one for one in text if one.isprintable())[:_NAME_MAX]

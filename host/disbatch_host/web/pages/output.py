"""The output of a task on its page: the end of a stream, or the part around a place.

Responsible for: which part is read, and what is said about the rest. Must not know: HTML.

Rules:
1. However large a stream is, one part of it is read and shown: the last `PART` bytes, or those from `at`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from disbatch_host.client import Client
from disbatch_host.client.output import is_binary
from disbatch_host.documents.records import Task
from disbatch_host.web.pages import ansi
from disbatch_host.web.pages.ansi import Line
from disbatch_protocol.status import is_finished

STREAMS = ("stdout", "stderr")
PART = 64 * 1024
_NUMBERED_MAX = 8 * 2**20  # above, lines have places, not numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a stream."""

    stream: str
    size: int  # of the whole that is kept
    start: int  # its first byte
    end: int
    lines: list[Line]
    dropped: int = 0  # bytes that were printed and not kept
    is_binary: bool = False

    @property
    def is_end(self) -> bool:
        return self.end >= self.size

    @property
    def hits(self) -> list[Line]:
        return [one for one in self.lines if one.has_hit]


def sizes(client: Client, task: Task) -> dict[str, int]:
    """How much of each stream is kept."""
    return {one: size_of(client, task, one) for one in STREAMS}


def size_of(client: Client, task: Task, stream: str) -> int:
    """How many bytes of a stream are kept so far."""
    facts = _facts(task, stream)
    text = task.document.get(stream)
    if not is_finished(task.status) and task.run:
        return sum(map(len, client.output(task.id, stream)))  # its document says so only in the end
    if not facts.get("in_file"):
        return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0
    return max(0, _whole(facts.get("bytes")) - _whole(facts.get("dropped_bytes")))


def first_stream(task: Task, kept: Mapping[str, int]) -> str:
    """The one that is read first: what it complains about, where it failed."""
    has_failed = is_finished(task.status) and task.status != 1
    return "stderr" if kept["stderr"] and (has_failed or not kept["stdout"]) else "stdout"


def part_of(
    client: Client, task: Task, stream: str, size: int, *, at: int | None = None, find: str = "", is_plain: bool = False
) -> Part:  # fmt: skip
    """The part of a stream that begins at the line of byte `at`; by default its end."""
    facts = _facts(task, stream)
    dropped = _whole(facts.get("dropped_bytes"))
    if is_binary(task, stream):
        return Part(stream=stream, size=size, start=0, end=size, lines=[], dropped=dropped, is_binary=True)
    start = max(0, size - PART) if at is None else min(max(0, at), max(0, size - 1))
    data = _read(client, task, stream, start)
    if start and at is None and (cut := data.find(b"\n")) >= 0:
        start, data = start + cut + 1, data[cut + 1 :]  # it begins with a whole line
    number = 1 if start == 0 else _lines_before(client, task, stream, start) if size <= _NUMBERED_MAX else None
    lines = list(ansi.lines_of(data, start=start, number=number, find=find, is_plain=is_plain))
    end = start + len(data)
    return Part(stream=stream, size=max(size, end), start=start, end=end, lines=lines, dropped=dropped)


def _read(client: Client, task: Task, stream: str, start: int) -> bytes:
    found = bytearray()
    for piece in client.output(task.id, stream, start=start):
        found += piece[: PART - len(found)]
        if len(found) >= PART:
            break
    return bytes(found)


def _lines_before(client: Client, task: Task, stream: str, start: int) -> int:
    """The number of the line that begins there."""
    return 1 + sum(piece.count(b"\n") for piece in _up_to(client.output(task.id, stream), start))


def _up_to(pieces: Iterator[bytes], end: int) -> Iterator[bytes]:
    left = end
    for piece in pieces:
        yield piece[:left]
        left -= len(piece)
        if left <= 0:
            return


def _facts(task: Task, stream: str) -> Mapping[str, Any]:
    output = task.run.get("output")
    facts = output.get(stream) if isinstance(output, Mapping) else None
    return facts if isinstance(facts, Mapping) else {}


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0

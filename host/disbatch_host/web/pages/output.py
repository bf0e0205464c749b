"""The output of a task on its page: the end of a stream, or the part around a place.

Responsible for: which part is read, and what is said about the rest. Must not know: HTML.

Rules:
1. However large a stream is, one part of it is read and shown: the last `PART` bytes, or those from a place on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from disbatch_host.client import Client
from disbatch_host.client.output_places import STREAMS, Output
from disbatch_host.documents.records import Task, whole_number
from disbatch_host.web.pages import ansi
from disbatch_host.web.pages.ansi import Line
from disbatch_protocol.status import Status, is_finished

PART = 64 * 1024
_NUMBERED_MAX = 8 * 2**20  # above, lines have places, not numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a stream."""

    stream: str
    attempt: int
    size: int  # of the whole that is kept
    start: int  # its first byte
    end: int
    lines: list[Line]
    dropped: int = 0  # bytes that were printed and not kept
    is_binary: bool = False
    ends_open: bool = False  # within a line

    @property
    def place(self) -> str:
        """Where a follower goes on: the id of an event."""
        return ":".join(map(str, (self.attempt, *(self.end if one == self.stream else 0 for one in STREAMS))))

    @property
    def is_end(self) -> bool:
        return self.end >= self.size

    @property
    def hits(self) -> list[Line]:
        return [one for one in self.lines if one.has_hit]


def sizes(client: Client, task: Task) -> dict[str, int]:
    """How many bytes of each stream are kept so far."""
    return {one: Output.of(task, one).size(client.store) for one in STREAMS}


def first_stream(task: Task, kept: Mapping[str, int]) -> str:
    """The one that is read first: what it complains about, where it failed."""
    has_failed = is_finished(task.status) and task.status != Status.CONCLUDED
    return "stderr" if kept["stderr"] and (has_failed or not kept["stdout"]) else "stdout"


def part_of(
    client: Client, task: Task, stream: str, size: int, *, at: int | None = None, find: str = "", is_plain: bool = False
) -> Part:  # fmt: skip
    """The part of a stream that begins at byte `at`; by default its end, from a whole line on."""
    output = Output.of(task, stream)
    dropped = _dropped(task, stream)
    if output.is_binary:
        return Part(
            stream=stream, attempt=output.attempt, size=size, start=0, end=size, lines=[], dropped=dropped,
            is_binary=True,
        )  # fmt: skip
    start = max(0, size - PART) if at is None else min(max(0, at), max(0, size - 1))
    data = b"".join(_read(output, client, start, min(size, start + PART)))
    if start and at is None and (cut := data.find(b"\n")) >= 0:
        start, data = start + cut + 1, data[cut + 1 :]
    number = None
    if size <= _NUMBERED_MAX:
        number = 1 + sum(piece.count(b"\n") for piece in _read(output, client, 0, start))
    lines = list(ansi.lines_of(data, start=start, number=number, find=find, is_plain=is_plain))
    return Part(
        stream=stream, attempt=output.attempt, size=size, start=start, end=start + len(data), lines=lines,
        dropped=dropped, ends_open=bool(data) and not data.endswith(b"\n"),
    )  # fmt: skip


def _read(output: Output, client: Client, start: int, end: int) -> Iterator[bytes]:
    while start < end and (piece := output.read(client.store, start)[: end - start]):
        yield piece
        start += len(piece)


def _dropped(task: Task, stream: str) -> int:
    output = task.run.get("output")
    facts: Any = output.get(stream) if isinstance(output, Mapping) else None
    return (whole_number(facts.get("dropped_bytes")) or 0) if isinstance(facts, Mapping) else 0

"""The output of a task on its page: the end of a stream, the part around a place, or around a text that is found.

Responsible for: which part is read, and what is said about the rest. Must not know: HTML.

Rules:
1. However large a stream is, one part of it is read and shown: the last `PART` bytes, or those from a place on.
2. With a script the page asks the API for all else; what is here has to do without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from disbatch_host.client import Client
from disbatch_host.client.output import run_of_attempt
from disbatch_host.client.output_places import STREAMS, Output
from disbatch_host.client.output_search import Search
from disbatch_host.documents.records import Task
from disbatch_host.errors import NotFoundError
from disbatch_host.web.pages import ansi
from disbatch_host.web.pages.ansi import Line
from disbatch_protocol.status import Status, is_finished

PART = 64 * 1024
_NUMBERED_MAX = 8 * 2**20  # above, lines have places, not numbers
_SEARCHED_MAX = 8 * 2**20  # bytes, for a page without a script
_HITS_MAX = 200
_BEFORE = 2048  # bytes that are shown before what is found


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where a text is in a stream, and which of these places is shown."""

    lines: Sequence[int]  # the byte at which the line of each begins
    number: int  # of the one that is shown, from 1; 0: there is none
    is_all: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody wants to see of a stream."""

    at: int | None = None  # from this byte on; None: the end
    find: str = ""
    hit: int | None = None  # which of the places where it is found, from 1
    is_plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a stream."""

    stream: str
    attempt: int
    size: int  # of the whole that is kept
    start: int  # its first byte
    end: int
    lines: list[Line]
    found: Found | None = None
    is_binary: bool = False
    is_gone: bool = False  # something was printed, and nothing of it is kept

    @property
    def is_end(self) -> bool:
        return self.end >= self.size

    @property
    def number(self) -> int | None:
        """Of its first line, if it is known."""
        return self.lines[0].number if self.lines else 1 if self.start == 0 else None


def attempt_in(task: Task, text: str) -> Mapping[str, Any]:
    """The attempt that an address names; the last one if it names none that is known."""
    if text.isascii() and text.isdigit() and len(text) < 10:
        try:
            return run_of_attempt(task, int(text))
        except NotFoundError:
            pass
    return task.run


def sizes(client: Client, task: Task, run: Mapping[str, Any]) -> dict[str, int]:
    """How many bytes of each stream of an attempt are kept so far."""
    return {one: Output.of(task, one, run).size(client.store) for one in STREAMS}


def first_stream(task: Task, kept: Mapping[str, int]) -> str:
    """The one that is read first: what it complains about, where it failed."""
    has_failed = is_finished(task.status) and task.status != Status.CONCLUDED
    return "stderr" if kept["stderr"] and (has_failed or not kept["stdout"]) else "stdout"


def part_of(client: Client, task: Task, run: Mapping[str, Any], stream: str, size: int, wish: Wish) -> Part:
    """The part of a stream that is wished for; its end begins with a whole line."""
    output = Output.of(task, stream, run)
    if output.is_binary or not size:
        is_gone = not size and (output.about_bytes > 0 or not output.is_kept)
        return Part(
            stream=stream, attempt=output.attempt, size=size, start=0, end=size, lines=[],
            is_binary=output.is_binary, is_gone=is_gone,
        )  # fmt: skip
    found = _found(client, output, size, wish) if len(wish.find) > 1 else None
    at = wish.at
    if found is not None and found.number:
        at = _line_start(output, client, max(0, found.lines[found.number - 1] - _BEFORE))
    start = max(0, size - PART) if at is None else min(max(0, at), max(0, size - 1))
    data = b"".join(_read(output, client, start, min(size, start + PART)))
    if start and at is None and (cut := data.find(b"\n")) >= 0:
        start, data = start + cut + 1, data[cut + 1 :]
    number = None
    if size <= _NUMBERED_MAX:
        number = 1 + sum(piece.count(b"\n") for piece in _read(output, client, 0, start))
    lines = list(ansi.lines_of(data, start=start, number=number, find=wish.find, is_plain=wish.is_plain))
    return Part(
        stream=stream, attempt=output.attempt, size=size, start=start, end=start + len(data), lines=lines, found=found
    )


def _found(client: Client, output: Output, size: int, wish: Wish) -> Found:
    search = Search(wish.find, offset=0, line=None, limit=_HITS_MAX)
    end = min(size, _SEARCHED_MAX)
    at = 0
    for piece in _read(output, client, 0, end):
        at += len(piece)
        search.feed(piece, is_last=at >= size)
        if search.is_full:
            break
    places = [one.offset for one in search.hits]
    if wish.hit is not None:
        number = min(max(1, wish.hit), len(places))
    else:
        behind = [number for number, place in enumerate(places, 1) if wish.at is not None and place >= wish.at]
        number = behind[0] if behind else len(places)
    near = range(max(0, number - 2), min(len(places), number + 1))  # links lead no farther
    lines = [_line_start(output, client, one) if n in near else one for n, one in enumerate(places)]
    return Found(lines=lines, number=number, is_all=not search.is_full and end >= size)


def _line_start(output: Output, client: Client, place: int) -> int:
    """Where the line begins that a byte is in; of a very long one a place before it."""
    first = max(0, place - PART)
    before = b"".join(_read(output, client, first, place))
    return first + before.rfind(b"\n") + 1


def _read(output: Output, client: Client, start: int, end: int) -> Iterator[bytes]:
    while start < end and (piece := output.read(client.store, start)[: end - start]):
        yield piece
        start += len(piece)

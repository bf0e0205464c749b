"""Any place of a task's output: its size, and what is from a byte on, without reading what lies before.

Responsible for: where the bytes of one stream of an attempt are: the beginning in the document, all of a long one and
of earlier attempts in pieces. Must not know: how they are shown.

Rules:
1. Offsets are in bytes of the text as it is kept, which is UTF-8 unless the plugin says that the stream is binary.
2. One read is one short question to the store, and at most one piece in memory, however long the stream is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from disbatch_host.client.history import was_never_started
from disbatch_host.client.output import inline_part, is_binary
from disbatch_host.documents import earlier_outputs
from disbatch_host.documents.changes import OUTPUT_CHUNK_SIZE
from disbatch_host.documents.records import Task, TaskId, whole_number
from disbatch_host.store.contract import Store

STREAMS = earlier_outputs.STREAMS
PIECE = OUTPUT_CHUNK_SIZE  # bytes of one read, at most
_CONTINUES = range(0x80, 0xC0)  # bytes within a character


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One stream of an attempt, as it was found in the task's document."""

    task: TaskId
    stream: str
    attempt: int  # 0: it has not been started
    is_binary: bool
    token: str | None = field(repr=False)
    beginning: bytes = field(repr=False)  # what the document has of it; nothing of a binary one
    about_bytes: int = 0  # about so many it has, if that is known
    is_kept: bool = True  # as far as the document knows

    @classmethod
    def of(cls, task: Task, stream: str, run: Mapping[str, Any] | None = None) -> Output:
        """`task` was read with its output. `run`: an attempt as `run_of_attempt` finds it; None: the last one."""
        is_last = run is None or run is task.run
        run = task.run if run is None else run
        token, facts, binary = run.get("token"), earlier_outputs.facts_of(run, stream), is_binary(run, stream)
        return cls(
            task=task.id,
            stream=stream,
            attempt=whole_number(run.get("attempt")) or 0,
            is_binary=binary,
            token=token if isinstance(token, str) else None,
            beginning=inline_part(task, stream) if is_last and not binary else b"",
            about_bytes=whole_number(facts.get("bytes")) or 0,
            is_kept=is_last or isinstance(run.get("output"), Mapping) or was_never_started(run),
        )

    def read(self, store: Store, offset: int) -> bytes:
        """What is there from this byte on, as far as one piece goes; nothing at the end, and if it is not kept any
        more."""
        if offset < len(self.beginning):
            return self.beginning[offset : offset + PIECE]
        number, skipped = divmod(offset, PIECE)
        return self._piece(store, number)[skipped:]

    def read_text(self, store: Store, offset: int, *, is_end: bool) -> bytes:
        """The same, in whole characters. `is_end`: nothing is written any more, so half a one at the end is all there
        will be of it."""
        data = self.read(store, offset)
        if self.is_binary or not data or (whole := whole_characters(data)) == len(data):
            return data
        following = self.read(store, offset + len(data))[:3]
        if not following:
            return data if is_end else data[:whole]
        data += following
        return data[: whole_characters(data)]

    def size(self, store: Store) -> int:
        """How many bytes there are now. Cost: a few pieces."""
        last = self._last_piece(store)
        return len(self.beginning) if last is None else max(len(self.beginning), last)

    def _last_piece(self, store: Store) -> int | None:
        """Where the last piece ends; None if there are none."""
        size = len(self._piece(store, 0))
        if size < PIECE:
            return size or None
        there, step = 0, 1
        beyond = None  # a number of which there is no piece
        guess = max(0, self.about_bytes - 1) // PIECE
        if guess:
            found = self._piece(store, guess)
            there, size, beyond = (guess, len(found), None) if found else (0, size, guess)
        while size == PIECE and beyond != there + 1:
            number = there + step if beyond is None else (there + beyond) // 2
            found = self._piece(store, number)
            if found:
                there, size, step = number, len(found), 2 * step
            else:
                beyond, step = number, 1
        return there * PIECE + size

    def _piece(self, store: Store, number: int) -> bytes:
        if self.token is None:
            return b""
        return next(store.read_output(self.task, self.token, self.stream, first=number), b"")

    def begin_of_character(self, store: Store, offset: int) -> int:
        """This offset, or the one up to three bytes earlier at which the character begins that it is within."""
        if self.is_binary or offset <= 0:
            return max(0, offset)
        first = max(0, offset - 3)
        around = self.read(store, first)
        if len(around) < 4:  # the end of a piece
            around += self.read(store, first + len(around))
        while offset > first and len(around) > offset - first and around[offset - first] in _CONTINUES:
            offset -= 1
        if offset - first == len(around):  # nothing is there yet: what comes may go on with what is there
            offset = first + whole_characters(around)
        return offset


def attempt_of(task: Task) -> int:
    """The number of its last attempt; 0 before the first."""
    return whole_number(task.run.get("attempt")) or 0


def whole_characters(data: bytes) -> int:
    """How many of these bytes are whole characters: all, but for up to three at the end that begin one."""
    for back in range(1, min(4, len(data) + 1)):
        one = data[-back]
        if one in _CONTINUES:
            continue
        length = (
            1 if one < 0x80 else 2 if one >> 5 == 0b110 else 3 if one >> 4 == 0b1110 else 4 if one >> 3 == 30 else 1
        )
        return len(data) if length <= back else len(data) - back
    return len(data)

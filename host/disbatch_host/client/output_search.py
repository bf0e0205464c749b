"""A text looked for in a stream of any length, piece after piece. Pure.

Responsible for: where it is, in which line, and what is around it; also where it lies across two pieces. Must not know:
where the pieces come from.

Rules:
1. Letters of ASCII fit in upper and lower case alike.
2. What is held does not grow with the stream or its lines: of a long line some hundred bytes around the place are told.
"""

from __future__ import annotations

from dataclasses import dataclass

_BEFORE, _AFTER = 200, 400  # bytes of its line around a place


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One place."""

    offset: int
    line: int | None  # from 1; None: it was not counted from the beginning
    text: str  # of its line


class Search:
    """Takes a stream from byte `offset` on. `line`: the number of the line there, if it is known."""

    def __init__(self, text: str, *, offset: int, line: int | None, limit: int) -> None:
        self._wanted = text.encode("utf-8", "replace").lower()
        self._limit = limit
        self._window = b""
        self._window_at = offset
        self.offset = offset  # up to which everything was found
        self.line = line
        self.hits: list[Hit] = []

    @property
    def is_full(self) -> bool:
        return len(self.hits) >= self._limit

    def feed(self, data: bytes, *, is_last: bool = False) -> None:
        """More of it. A place near the end of what there is so far is told later, when what follows it is known."""
        self._window += data
        end = len(self._window) if is_last else max(len(self._window) - _AFTER - len(self._wanted), 0)
        lowered = self._window.lower()
        at = self.offset - self._window_at
        while not self.is_full and (found := lowered.find(self._wanted, at)) >= 0 and found < end:
            self._count(at, found)
            self.hits.append(Hit(offset=self._window_at + found, line=self.line, text=self._line_around(found)))
            at = found + 1
            self._count(found, at)
        if not self.is_full and at < end:
            self._count(at, end)
            at = end
        self.offset = self._window_at + at
        dropped = max(0, at - _BEFORE)
        self._window, self._window_at = self._window[dropped:], self._window_at + dropped

    def _count(self, start: int, end: int) -> None:
        if self.line is not None:
            self.line += self._window.count(b"\n", start, end)

    def _line_around(self, at: int) -> str:
        begin = max(self._window.rfind(b"\n", 0, at) + 1, at - _BEFORE)
        end = self._window.find(b"\n", at + 1)
        end = min(len(self._window) if end < 0 else end, at + _AFTER)
        while begin < at and 0x80 <= self._window[begin] < 0xC0:
            begin += 1
        return self._window[begin:end].decode("utf-8", "ignore").removesuffix("\r")

"""Work on very many tasks, cut into pieces: the store's thread has others to serve, above all the heartbeat.

Responsible for: the sizes of the pieces. Must not know: what is done with them.

Rules:
1. A call begins with a piece of two tasks, and each piece is twice as large as the one before: small tasks need few.
   Of 8 MiB each, two take 0.12 s on SQLite, which writes a changed row again as a whole; a loaded machine takes several
   times as long.
2. A call ends once it has had its time, but not where it is the way to the store that takes long: then a piece of twice
   the size takes hardly longer, and the pieces go on growing for `_SECONDS_MAX`. If that was not enough, the next call
   goes on with the size that was reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

_FIRST = 2  # tasks
_HARDLY_LONGER = 1.5  # times as long as a piece of half the size
_NEAR = 8  # pieces that a call has time for, and more: then the next one may begin small
_SECONDS_MAX = 1.0  # of a call; a heartbeat must never be older than 3 s


class Pieces:
    """The sizes of the pieces of one work, over all the calls that it takes."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`most`: in one piece."""
        self._most = most
        self._clock = clock
        self._first = _FIRST  # of the next call

    def sizes(self, seconds: float) -> Iterator[int]:
        """The sizes of one call's pieces, at least one. `seconds`: the time that it has."""
        began = self._clock()
        size, self._first = min(self._first, self._most), _FIRST
        before, is_far = 0.0, False  # of the piece before; whether it was not its size that took long
        while True:
            started = self._clock()
            yield size
            now = self._clock()
            took, spent = now - started, now - began
            is_far = (is_far or size < self._most) and took < _HARDLY_LONGER * before
            self._first = max(_FIRST, size // 2) if is_far and took > seconds / _NEAR else _FIRST
            may_be_far = spent < 2 * seconds if not before else is_far and size < self._most
            if spent >= seconds and not (may_be_far and spent < _SECONDS_MAX):
                return
            size, before = min(2 * size, self._most), took


def of(items: Sequence[Item], pieces: Pieces, seconds: float) -> Iterator[Sequence[Item]]:
    """As many pieces of these as there is time for."""
    begin = 0
    for size in pieces.sizes(seconds) if items else ():
        yield items[begin : begin + size]
        begin += size
        if begin >= len(items):
            return

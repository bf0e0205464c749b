"""Work on very many tasks, cut into pieces: the store's thread has others to serve, above all the heartbeat.

Responsible for: the sizes of the pieces. Must not know: what is done with them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

# Tasks. Of 8 MiB each they take 0.12 s on SQLite, which writes a changed row again as a whole; a loaded machine takes
# several times as long.
_FIRST = 2


def sizes(seconds: float, most: int) -> Iterator[int]:
    """The sizes of the pieces of one call, each twice as large as the one before, up to `most`: small tasks need few
    pieces. No piece begins later than `seconds` after the first one."""
    deadline = time.monotonic() + seconds
    size = _FIRST
    while True:
        yield min(size, most)
        if time.monotonic() >= deadline:
            return
        size *= 2


def next_size(size: int, took: float, seconds: float, most: int) -> int:
    """The size of the next piece where each is a call of its own: for small tasks it soon is `most`, and stays that."""
    return min(2 * size, most) if took < seconds / 2 else max(size // 2, _FIRST) if took > seconds else size


def of(items: Sequence[Item], seconds: float) -> Iterator[Sequence[Item]]:
    """As many pieces of these as there is time for; see `sizes`."""
    begin = 0
    for size in sizes(seconds, len(items)):
        if begin >= len(items):
            return
        yield items[begin : begin + size]
        begin += size

"""The last bytes of a long stream.

Responsible for: holding them within a limit, in memory or in a spool file. Must not know: what the bytes mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from disbatch_host.run.spool import Spool

_TAIL_IN_MEMORY_MAX = 2**20  # bytes of tail that are held in memory before a spool file takes it
_TAIL_BLOCK = 2**20  # bytes of the tail that are handed out at a time


class Tail:
    """The last `limit` bytes of those appended: in memory while they are few, then a ring in a spool file."""

    def __init__(self, limit: int, spool_directory: Path | None) -> None:
        self._limit = limit
        self._spool_directory = spool_directory
        self._blocks: deque[bytes] = deque()
        self._held = 0  # bytes in _blocks
        self._file: Spool | None = None
        self._total = 0
        self._skipped_to = 0  # nothing before this position is kept
        self._is_discarding = False

    @property
    def begins_at(self) -> int:
        """The position of the first byte that is kept, among those appended."""
        return max(self._skipped_to, self._total - self._limit)

    @property
    def missing_bytes(self) -> int:
        return self._total if self._is_discarding else self.begins_at

    def append(self, data: bytes) -> None:
        self._total += len(data)
        if self._is_discarding:
            return
        if self._file is not None:
            self._write_ring(data, self._total - len(data))
            return
        self._blocks.append(data)
        self._held += len(data)
        # Whole blocks that have fallen out of the limit; the rest is cut in `blocks`.
        while self._blocks and self._held - len(self._blocks[0]) >= self._limit:
            self._held -= len(self._blocks.popleft())
        if self._held > _TAIL_IN_MEMORY_MAX and self._limit > _TAIL_IN_MEMORY_MAX:
            self._move_to_file()

    def skip(self, count: int) -> None:
        """So many bytes are missing: only what comes after them is kept."""
        self._total += count
        self._skipped_to = self._total
        self._blocks.clear()
        self._held = 0

    def blocks(self) -> Iterator[bytes]:
        """The bytes that are kept, oldest first."""
        if self._is_discarding:
            return
        if self._file is None:
            kept = b"".join(self._blocks)
            yield kept[max(0, len(kept) - self._limit) :]
            return
        position = self.begins_at
        while position < self._total:
            start = position % self._limit
            size = min(_TAIL_BLOCK, self._total - position, self._limit - start)
            yield self._file.read(size, start)
            position += size

    def discard(self) -> None:
        """Stop keeping anything; only count."""
        self._is_discarding = True
        self.close()

    def close(self) -> None:
        self._blocks.clear()
        if self._file is not None:
            self._file.close()

    def _move_to_file(self) -> None:
        self._file = Spool(self._spool_directory)
        position = self._total - self._held
        for block in self._blocks:
            self._write_ring(block, position)
            position += len(block)
        self._blocks.clear()

    def _write_ring(self, data: bytes, position: int) -> None:
        assert self._file is not None
        skipped = max(0, len(data) - self._limit)  # a block larger than the ring: only its end can stay
        rest = memoryview(data)[skipped:]
        position += skipped
        while rest:
            start = position % self._limit
            part = rest[: self._limit - start]
            self._file.write(part, start)
            rest = rest[len(part) :]
            position += len(part)

"""A file for output that is too large for memory.

Responsible for: bytes at a position, written whole, in a file that has no name. Must not know: what they mean.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


class Spool:
    """Raises OSError where the disk takes no more."""

    def __init__(self, directory: Path | None) -> None:
        self._file = tempfile.TemporaryFile(prefix="disbatch-", dir=directory, buffering=0)  # noqa: SIM115  # `close` closes it

    def write(self, data: bytes | memoryview, position: int) -> None:
        """Write all of it there."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._file.fileno(), rest, position)
            rest = rest[written:]
            position += written

    def read(self, size: int, position: int) -> bytes:
        """What is there, at most `size` bytes."""
        return os.pread(self._file.fileno(), size, position)

    def close(self) -> None:
        """Forget the content. Closing twice is fine."""
        self._file.close()

"""The frames between the node and the process that checks for it (`checking`, `checking_child`).

Responsible for: their form, reading and writing them on the child's side, and the one answer that is a type of its
own. Must not know: what is asked.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

HEADER = struct.Struct("<Q")


class TimedOut:
    """The answer that there is none. `pattern`: the one that was being tried."""

    def __init__(self, pattern: str | None) -> None:
        self.pattern = pattern


def read_frame(file: BinaryIO) -> bytes | None:
    """The next question; None at the end."""
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    data = file.read(size)
    return data if len(data) == size else None


def write_frame(file: BinaryIO, data: bytes) -> None:
    """One answer, at once."""
    file.write(HEADER.pack(len(data)) + data)
    file.flush()

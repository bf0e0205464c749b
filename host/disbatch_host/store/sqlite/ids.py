"""The ids of new tasks. See `IdSource`."""

from __future__ import annotations

import os

from disbatch_host.clock import Clock
from disbatch_host.store.sqlite import moments

_IDS_A_MILLISECOND = 0x10000


class IdSource:
    """Task ids: 24 hexadecimal digits, as MongoDB's, that begin with the time: seconds, milliseconds, the number within
    that millisecond, process. They rise within a process whatever its clock does, and across processes as the
    milliseconds do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._process = f"{int.from_bytes(os.urandom(5), 'big') & 0xF_FFFF_FFFF:09x}"
        self._next = 0  # milliseconds * _IDS_A_MILLISECOND + number

    def take(self, count: int) -> list[str]:
        first = max(self._next, (moments.to_milliseconds(self._clock.now()) or 0) * _IDS_A_MILLISECOND)
        self._next = first + count
        ids: list[str] = []
        while first < self._next:
            # Ids of the same millisecond differ only in their number. Once those are used up, the next millisecond is
            # taken.
            at, number = divmod(first, _IDS_A_MILLISECOND)
            seconds, milliseconds = divmod(at, 1000)
            start, process = f"{seconds & 0xFFFFFFFF:08x}{milliseconds:03x}", self._process
            end = min(_IDS_A_MILLISECOND, number + self._next - first)
            ids.extend([f"{start}{one:04x}{process}" for one in range(number, end)])
            first += end - number
        return ids

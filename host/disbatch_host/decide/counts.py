"""How many tasks there are under each word that people know, from the counts of single statuses. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from disbatch_protocol.status import ENDED, IN_HAND, WAITING, Status, name

COLUMNS = ("waiting", "running", "concluded", "failed", "terminated", "cancelled", "orphaned")  # terminated: of failed

_WORDS: Mapping[int, str] = MappingProxyType(
    {
        **dict.fromkeys(WAITING, "waiting"),
        **dict.fromkeys(IN_HAND, "running"),  # a claimed task starts in a moment
        **{status: name(status) for status in (*ENDED, Status.ORPHANED)},
    }
)


def totals(counts: Mapping[int, int]) -> dict[str, int]:
    """The counts of single statuses, gathered under `COLUMNS`: terminated tasks count as failed too, as in every
    command. Statuses without a name are left out."""
    total = dict.fromkeys(COLUMNS, 0)
    for value, count in counts.items():
        word = "failed" if value >= Status.FAILED else _WORDS.get(value)
        if word is not None:
            total[word] += count
        if value == Status.TERMINATED:
            total["failed"] += count
    return total


def ended(total: Mapping[str, int]) -> int:
    """The tasks that ended."""
    return total["concluded"] + total["failed"] + total["cancelled"] + total["orphaned"]

"""How many tasks failed for which cause, as a store counts them. Pure.

Responsible for: the shape of the answer. Must not know: how it is counted, how it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from disbatch_host.documents.records import QueueId

ROWS_MAX = 50_000  # of one answer; far above what people look at, and bounded whatever is in the store
SAMPLE = 10_000  # failures that are counted where all of them take too long


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCount:
    """Tasks that are alike in all of these. `key` is that of their group; those of earlier versions and other programs
    have none, and are told apart by their `code` alone."""

    key: str | None
    code: str | None
    queue: QueueId
    status: int
    node: str | None
    version: str | None  # of the plugin
    count: int
    first: datetime | None  # the earliest `mtime`
    last: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCounts:
    """All of them, or as many as there was time for."""

    rows: Sequence[FailureCount] = ()
    is_complete: bool = True

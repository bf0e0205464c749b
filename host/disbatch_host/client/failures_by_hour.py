"""When tasks failed, by the hour.

Responsible for: these counts. Must not know: why they failed, how they are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from disbatch_host.documents.changes import TaskFilter
from disbatch_host.store.contract import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class FailuresByHour:
    """How many, orphaned and expired tasks among them."""

    counts: Mapping[datetime, int] = field(
        default_factory=dict
    )  # by the begin of the hour; hours without any are left out
    is_complete: bool = True  # False: there was no time to count all of them


def find_failures_by_hour(store: Store, which: TaskFilter, *, seconds: float) -> FailuresByHour:
    """In about so many seconds. Raises StoreError."""
    found = store.count_failures(which, seconds=seconds, by_hour=True)
    counts: Counter[datetime] = Counter()
    for row in found.rows:
        if row.first is not None:
            counts[row.first.replace(minute=0, second=0, microsecond=0)] += row.count
    return FailuresByHour(counts=dict(counts), is_complete=found.is_complete)

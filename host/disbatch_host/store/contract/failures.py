"""What a store can tell about failures.

Responsible for: these promises. Must not know: any driver, what a group means.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.failure_counts import FailureCounts
from disbatch_host.documents.records import QueueId


class Failures(Protocol):
    """Why tasks failed."""

    def count_failures(self, which: TaskFilter, *, seconds: float, by_hour: bool = False) -> FailureCounts:
        """How many tasks failed for which cause (`error.group.key`), in which queue, with which status, on which node
        and with which version of their plugin. Without `which.statuses`: failed, terminated and orphaned tasks, and
        cancelled ones that have a cause all the same (they expired). Tasks that have failed and name no cause, of
        earlier versions and other programs, are told apart by `error.code`; they are left out where `which` names one.
        `by_hour`: they are told apart by the hour (UTC) of their end as well, in which `first` and `last` are then.

        Cost: by the number of failures, in an index that holds nothing else. Where all of them would take longer than
        `seconds`, a part of them is counted, and `is_complete` is False; it may take a little longer."""

    def last_ends(self, queue: QueueId, *, failed: bool, since: datetime | None, limit: int) -> list[datetime]:
        """When the last tasks of a queue failed for good (terminated ones among them), or concluded: their `mtime`, the
        newest first, at or after `since`, at most so many.

        Cost: by `limit`, in indexes that the first call creates, since only queues with `pause_on_failures` need them.
        That reads all tasks once."""

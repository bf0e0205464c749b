"""Whether so many tasks of a queue have failed that it is paused (`pause_on_failures`). Pure.

Responsible for: this decision, from the times at which tasks ended, and its sentence. Must not know: how these times
are found, who pauses a queue.

Rules:
1. Failures count from the last time that somebody resumed the queue: a resume begins a new count.
2. Of a share of the last tasks, those count that concluded or failed. It is reached as soon as it is certain: twenty
   failures among the first thirty tasks are twenty of the last hundred, whatever the others do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from disbatch_host.documents.records import Queue
from disbatch_protocol.quantities import FailureLimit, format_duration

# The times at which the last tasks failed (True) or concluded, since a time or ever, at most so many; newest first.
LastEnds = Callable[[bool, datetime | None, int], Sequence[datetime]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TooManyFailures:
    failures: int
    why: str


def too_many_failures(queue: Queue, last_ends: LastEnds, now: datetime) -> TooManyFailures | None:
    """None as long as the limit of the queue is not reached."""
    limit = queue.pause_on_failures
    if limit is None:
        return None
    resumed = resumed_at(queue)
    if limit.of_last is None:
        return _in_time(queue, limit, last_ends, resumed, now)
    failed = last_ends(True, resumed, limit.count)
    if len(failed) < limit.count:
        return None
    others = limit.of_last - limit.count
    concluded = last_ends(False, failed[-1], others + 1)
    if len(concluded) > others:
        return None
    among = len(concluded) + len(failed)
    return TooManyFailures(
        failures=len(failed),
        why=f"{len(failed)} of the last {among} tasks failed (pause_on_failures {_as_written(queue)})",
    )


def resumed_at(queue: Queue) -> datetime | None:
    """When it was resumed last."""
    at = queue.document.get("resumed_at")
    return at if isinstance(at, datetime) and at.tzinfo is not None else None


def _in_time(
    queue: Queue, limit: FailureLimit, last_ends: LastEnds, resumed: datetime | None, now: datetime
) -> TooManyFailures | None:
    seconds = limit.seconds or 0.0
    since = now - timedelta(seconds=seconds)
    failed = last_ends(True, since if resumed is None else max(since, resumed), limit.count)
    if len(failed) < limit.count:
        return None
    tasks = "1 task" if len(failed) == 1 else f"{len(failed)} tasks"
    return TooManyFailures(
        failures=len(failed),
        why=f"{tasks} failed within {format_duration(seconds)} (pause_on_failures {_as_written(queue)})",
    )


def _as_written(queue: Queue) -> str:
    return str(queue.document.get("pause_on_failures")).strip()

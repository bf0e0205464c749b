"""When so many tasks of a queue have failed that it is paused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from disbatch_host.decide.failing import TooManyFailures, too_many_failures
from disbatch_host.documents.records import Queue

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def decide(limit: str, ends: str, *, resumed: float | None = None) -> TooManyFailures | None:
    """`ends`: F or C for each task that ended, the last one now; `resumed`: so many seconds ago."""
    fields = {} if resumed is None else {"resumed_at": NOW - timedelta(seconds=resumed)}
    queue = Queue.from_document({"_id": "q", "class": "C", "pause_on_failures": limit, **fields})
    assert queue.fault is None
    newest_first = [(NOW - timedelta(seconds=age), kind) for age, kind in enumerate(reversed(ends))]

    def last_ends(failed: bool, since: datetime | None, limit: int) -> Sequence[datetime]:
        assert 0 < limit <= 10_000
        found = [at for at, kind in newest_first if (kind == "F") is failed and (since is None or at >= since)]
        return found[:limit]

    return too_many_failures(queue, last_ends, NOW)


@pytest.mark.parametrize(
    ("limit", "ends", "is_reached"),
    [
        ("3/10s", "FFF", True),
        ("3/10s", "FF", False),
        ("3/10s", "FCCCFCCCF", True),
        ("3/10s", "FCCCCFCCCCCF", False),  # the first of them is eleven seconds old
        ("1/m", "F", True),
        ("20%/10", "FF", True),  # whatever the other eight do
        ("20%/10", "F", False),
        ("20%/10", "FCCCCCCCCF", True),
        ("20%/10", "FCCCCCCCCCF", False),
        ("20%/10", "FFCCCCCCCCCCCCCCF", False),
        ("20%/10", "CCCCCCCCCCCCCCCCCCCCFCF", True),
        ("100%/3", "CFFF", True),
        ("100%/3", "FFCF", False),
        ("1%/10", "CCCF", True),  # a part of a task is a whole one
    ],
)
def test_a_limit_is_reached(limit: str, ends: str, *, is_reached: bool) -> None:
    assert (decide(limit, ends) is not None) is is_reached


def test_what_failed_before_the_queue_was_resumed_does_not_count() -> None:
    assert decide("3/10s", "FFFF", resumed=2.5) is not None
    assert decide("3/10s", "FFFF", resumed=1.5) is None
    assert decide("50%/4", "FFCC", resumed=2.5) is None
    assert decide("50%/4", "FFCF", resumed=2.5) is not None


def test_why_is_said_with_the_limit_as_it_is_written() -> None:
    in_time, of_last = decide("3/10m", "FFF"), decide("20%/10", "FCCF")
    assert in_time == TooManyFailures(failures=3, why="3 tasks failed within 10m (pause_on_failures 3/10m)")
    assert of_last == TooManyFailures(failures=2, why="2 of the last 4 tasks failed (pause_on_failures 20%/10)")


def test_a_queue_without_a_limit_asks_nobody() -> None:
    def nobody(failed: bool, since: datetime | None, limit: int) -> Sequence[datetime]:
        raise AssertionError

    assert too_many_failures(Queue.from_document({"_id": "q", "class": "C"}), nobody, NOW) is None


@pytest.mark.parametrize("value", ["many", 5, "0/1m", "20%", True])
def test_a_limit_that_cannot_be_read_is_a_fault_of_the_queue(value: object) -> None:
    queue = Queue.from_document({"_id": "q", "class": "C", "pause_on_failures": value})
    assert queue.fault is not None and '"pause_on_failures": expected failures' in queue.fault


@pytest.mark.parametrize("value", [0, 51, "3", 2.5, True, [3]])
def test_attempts_to_keep_that_cannot_be_read_are_a_fault_of_the_queue(value: object) -> None:
    queue = Queue.from_document({"_id": "q", "class": "C", "keep_attempts": value})
    assert queue.fault is not None and '"keep_attempts" must be a whole number from 1 to 50' in queue.fault
    assert Queue.from_document({"_id": "q", "class": "C", "keep_attempts": 2.0}).keep_attempts == 2
    assert Queue.from_document({"_id": "q", "class": "C", "keep_attempts": None}).keep_attempts == 3

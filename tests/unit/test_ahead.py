"""Tasks that are read ahead of their claims: how long they are kept, and when nothing is read ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from disbatch_host.clock import SystemClock
from disbatch_host.store.mongo.ahead import READ_AHEAD, Ahead

SMALL = {"parameters": {"text": "x" * 100}}
LARGE = {"parameters": {"text": "x" * 100_000}}


class ManualClock(SystemClock):
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


class Queue:
    """The waiting tasks of a queue, which counts how it is asked."""

    def __init__(self, *documents: dict[str, Any]) -> None:
        self.documents = [{"_id": number, **one} for number, one in enumerate(documents)]
        self.asked: list[int] = []
        self.read = 0

    def find(self, most: int, is_enough: Callable[[Any], bool]) -> list[Any]:
        self.asked.append(most)
        found = []
        for document in self.documents[:most]:
            self.read += 1
            found.append(document)
            if is_enough(document):
                break
        return found

    def taken(self, ahead: Ahead, count: int) -> list[int]:
        taken = [one["_id"] for one in ahead.take("q", count, self.find)]
        self.documents = [one for one in self.documents if one["_id"] not in taken]
        return taken


def test_one_look_serves_many_claims_in_order() -> None:
    queue, ahead = Queue(*[SMALL] * 100), Ahead(ManualClock())
    assert [queue.taken(ahead, 8) for _ in range(8)] == [list(range(at, at + 8)) for at in range(0, 64, 8)]
    assert queue.asked == [READ_AHEAD]
    assert queue.taken(ahead, 8) == list(range(64, 72)) and len(queue.asked) == 2


def test_what_was_read_is_used_for_a_tenth_of_a_second() -> None:
    """A task of a higher priority that another program has pushed meanwhile waits no longer than that."""
    clock = ManualClock()
    queue, ahead = Queue(*[SMALL] * 20), Ahead(clock)
    assert queue.taken(ahead, 2) == [0, 1]
    queue.documents.insert(0, {"_id": 99, **SMALL})
    clock.advance(0.05)
    assert queue.taken(ahead, 2) == [2, 3]
    clock.advance(0.06)
    assert queue.taken(ahead, 2) == [99, 4]


def test_a_write_of_this_store_throws_all_away() -> None:
    queue, ahead = Queue(*[SMALL] * 20), Ahead(ManualClock())
    queue.taken(ahead, 2)
    queue.documents.insert(0, {"_id": 99, **SMALL})
    ahead.throw_all_away()
    assert queue.taken(ahead, 2) == [99, 2]


def test_while_others_claim_from_a_queue_nothing_is_read_ahead() -> None:
    clock = ManualClock()
    queue, ahead = Queue(*[SMALL] * 200), Ahead(clock)
    queue.taken(ahead, 8)
    ahead.throw_away("q")
    for _ in range(3):
        queue.taken(ahead, 8)
    clock.advance(0.9)
    queue.taken(ahead, 8)
    assert queue.asked == [READ_AHEAD, 8, 8, 8, 8]
    clock.advance(0.2)
    queue.taken(ahead, 8)
    assert queue.asked[-1] == READ_AHEAD


def test_large_tasks_are_not_read_ahead() -> None:
    clock = ManualClock()
    queue, ahead = Queue(SMALL, LARGE, *[LARGE] * 100), Ahead(clock)
    assert queue.taken(ahead, 1) == [0] and queue.read == 2  # the second was large: no more was read
    clock.advance(1)
    assert queue.taken(ahead, 3) == [1, 2, 3] and queue.asked == [READ_AHEAD, 3]
    clock.advance(10)
    queue.taken(ahead, 1)
    assert queue.asked[-1] == READ_AHEAD


def test_more_than_is_read_ahead_can_be_wanted_and_a_queue_may_have_less() -> None:
    queue, ahead = Queue(*[SMALL] * 100), Ahead(ManualClock())
    assert queue.taken(ahead, 90) == list(range(90))
    assert queue.taken(ahead, 20) == list(range(90, 100))
    assert queue.taken(ahead, 5) == []


def test_a_queue_that_gives_no_more_than_was_wanted_is_not_read_ahead_for_a_while() -> None:
    """As one with mixed priorities, which costs several queries each time."""
    asked = []

    def find(most: int, _: Callable[[Any], bool]) -> list[Any]:
        asked.append(most)
        return [{"_id": len(asked) * 100 + number, **SMALL} for number in range(8)]

    clock = ManualClock()
    ahead = Ahead(clock)
    for seconds in (0.2, 0.2, 1.0, 0.0):
        ahead.take("q", 8, find)
        clock.advance(seconds)
    assert asked == [READ_AHEAD, 8, 8, READ_AHEAD]


def test_documents_that_cannot_be_encoded_count_as_large() -> None:
    queue, ahead = Queue({"parameters": object()}, SMALL), Ahead(ManualClock())
    assert queue.taken(ahead, 1) == [0] and queue.read == 1


def test_queues_are_kept_apart() -> None:
    first, second, ahead = Queue(*[SMALL] * 10), Queue(*[SMALL] * 10), Ahead(ManualClock())
    ahead.take("a", 2, first.find)
    assert [one["_id"] for one in ahead.take("b", 2, second.find)] == [0, 1]
    assert [one["_id"] for one in ahead.take("a", 2, first.find)] == [2, 3]
    assert first.asked == second.asked == [READ_AHEAD]

"""When a queue is asked again whose limit across all nodes was found to be used up."""

from __future__ import annotations

from typing import Any

from disbatch_host.clock import SystemClock
from disbatch_host.decide.placement import Load
from disbatch_host.documents.changes import Want
from disbatch_host.documents.records import Queue
from disbatch_host.node.limited_queues import LimitedQueues
from disbatch_host.node.pace import Pace

PACE = Pace(refresh_seconds=1.0, limited_seconds=0.05)


class HandClock(SystemClock):
    """Its monotonic time moves when the test moves it."""

    def __init__(self) -> None:
        self.at = 100.0

    def monotonic(self) -> float:
        return self.at


def queue(**fields: Any) -> Queue:
    return Queue.from_document({"_id": "q", "class": "A", **fields})


def want(one: Queue, count: int = 5, in_hand: int = 0) -> Want:
    return Want("q", count, maxtotal=one.maxtotal, rate=one.rate, in_hand=in_hand)


def load(in_hand: int = 0) -> Load:
    return Load(max_per_queue=10, max_total=None, running={"q": in_hand})


def rests(limited: LimitedQueues, one: Queue, now: Load) -> bool:
    return limited.resting([one], now) == {"q"}


def test_a_queue_rests_until_its_rate_allows_another_start() -> None:
    clock = HandClock()
    limited, one = LimitedQueues(clock, PACE), queue(rate="2/s")
    interval = want(one).rate.interval_seconds  # type: ignore[union-attr]
    assert limited.note(want(one, 1), got=1) is None  # it got what it wanted; that uses the rate up all the same
    assert limited.note(want(one), got=1) == interval
    assert not rests(limited, one, load())  # it may just be empty now
    clock.at += interval / 4
    seconds = limited.note(want(one), got=0)
    assert seconds is not None and abs(seconds - interval * 3 / 4) < 1e-9  # counted from the start, not from now
    assert rests(limited, one, load()) and rests(limited, one, load())
    clock.at += interval * 3 / 4 + 1e-6
    assert not rests(limited, one, load())


def test_no_rest_is_longer_than_the_time_between_two_reads_of_the_queues() -> None:
    clock = HandClock()
    limited, one = LimitedQueues(clock, PACE), queue(rate="1/d")
    limited.note(want(one), got=0)
    assert rests(limited, one, load()) and 0 < limited.seconds_left(one) <= 1.0
    clock.at += 1.0
    assert not rests(limited, one, load())


def test_a_rest_ends_when_a_task_ends_here_or_the_queue_is_changed() -> None:
    clock = HandClock()
    limited, one = LimitedQueues(clock, PACE), queue(maxtotal=3)
    assert limited.note(want(one, in_hand=2), got=0) is None
    assert rests(limited, one, load(2))
    assert not rests(limited, one, load(1))
    limited.note(want(one, in_hand=2), got=0)
    assert rests(limited, one, load(2)) and not rests(limited, queue(maxtotal=4), load(2))
    limited.note(want(one, in_hand=2), got=0)
    clock.at += 0.05
    assert not rests(limited, one, load(2))


def test_a_queue_without_a_limit_never_rests_and_a_deleted_one_is_forgotten() -> None:
    limited = LimitedQueues(HandClock(), PACE)
    assert limited.note(want(queue()), got=0) is None and not rests(limited, queue(), load())
    one = queue(rate="1/h")
    limited.note(want(one), got=0)
    limited.forget_all_but({"other"})
    assert not rests(limited, one, load())


def test_any_queue_rests_for_a_moment_where_too_many_are_asked_in_vain() -> None:
    clock = HandClock()
    limited, one = LimitedQueues(clock, PACE), queue()
    limited.let_rest(want(one))
    assert rests(limited, one, load())
    clock.at += 0.05
    assert not rests(limited, one, load())

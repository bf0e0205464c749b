"""Limits that hold over all nodes, and the order of claims, on both stores."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from disbatch_host.decide.placement import Load
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunKey, Want
from disbatch_host.errors import StoreUnreachableError
from disbatch_host.node.claim_ledger import ClaimLedger, ClaimRequest
from disbatch_host.node.pace import Pace
from disbatch_host.store.contract import Store
from disbatch_protocol.quantities import Rate
from disbatch_protocol.status import Status
from helpers.stores import (
    NOW,
    at_once,
    change,
    push,
    rounds_until,
)


def test_maxtotal_counts_what_all_nodes_have_in_hand(store: Store, second_store: Store) -> None:
    push(store, *({} for _ in range(9)))
    first = store.claim("n1", [Want("q", 2, maxtotal=3)], "t1")
    second = second_store.claim("n2", [Want("q", 5, maxtotal=3)], "t2")
    assert (len(first), len(second)) == (2, 1)
    assert store.claim("n1", [Want("q", 1, maxtotal=3, in_hand=2)], "t3") == []
    key = RunKey(first[0].id, "n1", "t1")
    store.commit([change(key, Status.CLAIMED, Status.RUNNING)])
    assert second_store.claim("n2", [Want("q", 1, maxtotal=3, in_hand=1)], "t4") == []
    store.commit([change(key, Status.RUNNING, Status.CONCLUDED)])
    assert len(store.claim("n1", [Want("q", 5, maxtotal=3, in_hand=1)], "t5")) == 1


def test_maxtotal_is_of_one_queue_and_may_be_none_at_all(store: Store) -> None:
    for queue in "abc":
        push(store, {}, {}, {}, queue=queue)
    wanted = [Want("a", 3, maxtotal=0), Want("b", 3, maxtotal=2), Want("c", 3)]
    assert [task.queue for task in store.claim("n1", wanted, "t1")] == ["b", "b", "c", "c", "c"]


def test_a_maxtotal_that_was_made_smaller_holds_from_the_next_claim_on(store: Store) -> None:
    push(store, *({} for _ in range(9)))
    tasks = store.claim("n1", [Want("q", 3, maxtotal=3)], "t1")
    for left in (2, 1, 0):
        assert store.claim("n1", [Want("q", 1, maxtotal=1, in_hand=left + 1)], f"t-{left}") == []
        store.commit([change(RunKey(tasks[left].id, "n1", "t1"), Status.CLAIMED, Status.FAILED)])
    assert len(store.claim("n1", [Want("q", 2, maxtotal=1)], "t2")) == 1


def test_maxtotal_is_never_exceeded_by_two_who_claim_at_once_and_all_is_done(store: Store, store_url: str) -> None:
    total, most = 60, 3
    push(store, *({} for _ in range(total)))
    lock = threading.Lock()
    in_hand, highest = 0, 0
    ended: list[RunKey] = []

    def work(node: str) -> Callable[[Store], None]:
        def run(mine: Store) -> None:
            nonlocal in_hand, highest
            held: list[RunKey] = []
            for number in rounds_until(lambda: len(ended) == total):
                token = f"{node}-{number}"
                got = mine.claim(node, [Want("q", 2, maxtotal=most, in_hand=len(held))], token)
                with lock:  # after the claim and before the end: never more than the store has in hand
                    in_hand += len(got)
                    highest = max(highest, in_hand)
                held += [RunKey(task.id, node, token) for task in got]
                # Some are held over a claim, some are not.
                leaving, held = (held, []) if number % 3 else (held[:1], held[1:])
                with lock:
                    in_hand -= len(leaving)
                for left, new in ((Status.CLAIMED, Status.RUNNING), (Status.RUNNING, Status.CONCLUDED)):
                    assert mine.commit([change(key, left, new) for key in leaving]) == set()
                ended.extend(leaving)
            mine.hold(node, {})

        return run

    at_once(store_url, work("n1"), work("n2"))
    assert store.count_by_status() == {"q": {1: total}}
    assert 1 <= highest <= most


def test_what_a_node_has_given_back_is_free_for_others_when_it_holds_less(store: Store, second_store: Store) -> None:
    push(store, *({} for _ in range(9)))
    tasks = store.claim("n1", [Want("q", 3, maxtotal=3)], "t1")
    store.commit([change(RunKey(task.id, "n1", "t1"), Status.CLAIMED, Status.FAILED) for task in tasks[:2]])
    store.hold("n1", {"q": 1})
    assert len(second_store.claim("n2", [Want("q", 9, maxtotal=3)], "t2")) == 2
    assert second_store.claim("n2", [Want("q", 9, maxtotal=3, in_hand=2)], "t3") == []


def test_what_a_dead_node_had_is_free_after_its_tasks_are_settled(store: Store, second_store: Store) -> None:
    push(store, *({} for _ in range(5)))
    tasks = store.claim("n1", [Want("q", 2, maxtotal=2)], "t1")
    assert second_store.claim("n2", [Want("q", 2, maxtotal=2)], "t2") == []
    lost = [transitions.lost_change(task, node="n1", now=NOW) for task in tasks]
    assert second_store.commit(lost) == set()
    second_store.hold("n1", {})
    assert len(second_store.claim("n2", [Want("q", 2, maxtotal=2)], "t3")) == 2


def test_holding_nothing_of_no_queue_does_no_harm(store: Store) -> None:
    store.hold("n1", {})
    store.hold("n1", {"q": 0, "other": 3})
    push(store, {})
    assert len(store.claim("n1", [Want("q", 1, maxtotal=1)], "t1")) == 1


def assert_rate(moments: list[datetime], rate: Rate) -> None:
    """In no period more than `count`. Dates are cut to milliseconds, so two may be one millisecond less apart."""
    moments = sorted(moments)
    for first, beyond in zip(moments, moments[rate.count :], strict=False):
        assert beyond - first > timedelta(seconds=rate.seconds) - timedelta(milliseconds=2), (first, beyond)


@pytest.mark.parametrize("rate", [Rate(5, 0.25), Rate(1, 0.05), Rate(40, 0.2)], ids=str)
def test_a_rate_is_never_exceeded_by_those_who_claim_at_once(store: Store, store_url: str, rate: Rate) -> None:
    total = min(3 * rate.count + 2, 60)
    push(store, *({} for _ in range(total)))
    moments: list[datetime] = []

    def work(node: str) -> Callable[[Store], None]:
        def run(mine: Store) -> None:
            for number in rounds_until(lambda: len(moments) == total):
                for task in mine.claim(node, [Want("q", 7, rate=rate)], f"{node}-{number}"):
                    moments.append(task.document["claim"]["at"])

        return run

    at_once(store_url, work("n1"), work("n2"))
    assert_rate(moments, rate)
    assert store.waiting_queues() == set()


def test_a_rate_is_of_one_queue_and_what_has_none_is_not_held_to_it(store: Store) -> None:
    for queue in "ab":
        push(store, *({} for _ in range(5)), queue=queue)
    once_a_day = Rate(1, 86400.0)
    claim = lambda token, *wanted: [task.queue for task in store.claim("n1", wanted, token)]  # noqa: E731
    assert claim("t1", Want("a", 5, rate=once_a_day), Want("b", 2)) == ["a", "b", "b"]
    assert claim("t2", Want("a", 5, rate=once_a_day), Want("b", 1)) == ["b"]
    assert claim("t3", Want("b", 1, rate=once_a_day)) == ["b"]
    assert claim("t4", Want("a", 5)) == ["a"] * 4


def test_both_limits_hold_together(store: Store) -> None:
    push(store, *({} for _ in range(5)))
    often = Rate(1000, 1.0)  # a hundred at once
    assert len(store.claim("n1", [Want("q", 5, maxtotal=2, rate=often)], "t1")) == 2
    assert store.claim("n1", [Want("q", 5, maxtotal=2, rate=often, in_hand=2)], "t2") == []
    assert len(store.claim("n1", [Want("q", 5, maxtotal=9, rate=Rate(1, 86400.0), in_hand=2)], "t3")) <= 1


def test_the_newest_comes_first_where_that_is_wanted(store: Store) -> None:
    ids = push(store, *({} for _ in range(6)))
    got = lambda token, count, **more: [t.id for t in store.claim("n1", [Want("q", count, **more)], token)]  # noqa: E731
    assert got("t1", 2, newest_first=True) == [ids[5], ids[4]]
    assert got("t2", 1) == [ids[0]]
    (newer,) = push(store, {})
    assert got("t3", 9, newest_first=True) == [newer, ids[3], ids[2], ids[1]]
    assert got("t4", 1, newest_first=True) == []


def test_the_newest_comes_first_among_those_of_the_same_priority(store: Store) -> None:
    priorities = [0, 5, -3, 5, 0, -3, 7]
    ids = [push(store, {}, priority=priority)[0] for priority in priorities]
    push(store, {}, node="perl01", priority=9)
    push(store, {}, queue="other", priority=9)
    order = [ids[number] for number in (6, 3, 1, 4, 0, 5, 2)]
    assert [task.id for task in store.claim("n1", [Want("q", 4, newest_first=True)], "t1")] == order[:4]
    assert [task.id for task in store.claim("n1", [Want("q", 4, newest_first=True)], "t2")] == order[4:]


def test_places_that_were_taken_before_there_was_a_limit_count_for_it(store: Store, second_store: Store) -> None:
    """On MongoDB a node used to tell only of what it had claimed while the limit was set, and others went beyond it."""
    store.insert_queue({"_id": "q", "class": "A", "maxthreads": 5})
    push(store, *({} for _ in range(9)))
    ledger, classes, idle = ClaimLedger("n1", Pace()), frozenset({"A"}), Load(max_per_queue=5, max_total=None)
    claimed = ledger.round(ClaimRequest(classes=classes, load=idle, refresh=True), store)
    ledger.confirm(claimed)
    assert len(claimed.tasks) == 5
    store.update_queue("q", {"maxtotal": 6, "maxthreads": 5})
    busy = Load(max_per_queue=5, max_total=None, running={"q": 5})
    assert not ledger.round(ClaimRequest(classes=classes, load=busy, refresh=True), store).tasks
    got = second_store.claim("n2", [Want("q", 5, maxtotal=6)], "t2")
    assert len(got) == 1
    for task in claimed.tasks:  # when they have ended, their places are free
        end_claim = change(RunKey(task.id, "n1", task.token), Status.CLAIMED, status=int(Status.CANCELLED))
        assert store.commit([end_claim]) == set()
    ledger.release_places(store, idle)
    assert len(second_store.claim("n2", [Want("q", 9, maxtotal=6, in_hand=1)], "t3")) == 3  # all that still wait


def test_after_a_claim_that_failed_a_queue_with_a_limit_is_claimed_from_as_soon_as_nothing_can_come_of_it_any_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a minute it was left alone on SQLite as well, where what was not committed is gone."""
    store.insert_queue({"_id": "q", "class": "A", "maxthreads": 5, "maxtotal": 5})
    ids = push(store, {}, {})
    ledger = ClaimLedger("n1", Pace())

    def look() -> list[Any]:
        load = Load(max_per_queue=5, max_total=None)
        request = ClaimRequest(classes=frozenset({"A"}), load=load, refresh=True)
        return [task.id for task in ledger.round(request, store).tasks]

    def fail(*_: Any) -> Any:
        raise StoreUnreachableError("away")

    with monkeypatch.context() as away, pytest.raises(StoreUnreachableError):
        away.setattr(store, "claim", fail)
        look()
    assert look() == [] and ledger.has_unanswered_claims
    looks = 1
    while ledger.return_orphaned_claims(store, known=frozenset()) == 0 and ledger.has_unanswered_claims:
        looks += 1
    assert (looks > 1) is store.may_act_late
    assert look() == ids

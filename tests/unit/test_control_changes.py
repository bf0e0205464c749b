"""What people, time and the ends of other tasks make of a task: the pure decisions of `run_document`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disbatch_host.documents import requests, transitions
from disbatch_host.documents.changes import TaskChange
from disbatch_host.documents.records import Queue, Sort, Task
from disbatch_protocol.quantities import Rate, parse_rate
from disbatch_protocol.status import Status, is_finished, may_become

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
BEFORE = NOW - timedelta(hours=1)
REQUEST = requests.request_of("kim@desk", "wrong list", now=NOW)
EVERY_STATUS = [*(int(status) for status in Status), 7]


def task(status: int, **fields: Any) -> Task:
    return Task.from_document({"_id": "t1", "queue": "q", "status": status, "node": -1, "mtime": BEFORE, **fields})


def after(change: TaskChange, before: Task) -> dict[str, Any]:
    """The document as the change leaves it."""
    document = {**before.document, **change.set}
    return {name: value for name, value in document.items() if name not in change.unset}


@pytest.mark.parametrize("status", EVERY_STATUS)
def test_a_cancel_ends_what_has_not_started_asks_what_runs_and_leaves_what_has_ended(status: int) -> None:
    one = task(status, run={"attempt": 2}, claim={"token": "t"}, not_before=NOW)
    change = transitions.cancel_change(one, REQUEST, now=NOW)
    if status == Status.RUNNING:
        assert change is not None and dict(change.set) == {"cancel": REQUEST} and change.unset == ()
    elif may_become(status, Status.CANCELLED):
        assert change is not None
        left = after(change, one)
        assert left["status"] == Status.CANCELLED and left["node"] == -1 and left["mtime"] == NOW
        assert left["run"] == {"attempt": 2, "cancelled": REQUEST} and "claim" not in left and "not_before" not in left
        assert left["error"] == {
            "code": "cancelled", "message": "disbatch-host: it was cancelled by kim@desk: wrong list"
        }  # fmt: skip
    else:
        assert change is None and is_finished(status)
    if change is not None:
        assert change.statuses == {status}


@pytest.mark.parametrize("status", EVERY_STATUS)
def test_a_retry_takes_everything_that_has_ended_back_and_keeps_how_it_ended(status: int) -> None:
    run = {"attempt": 3, "started": BEFORE, "reason": "exited", "exit_code": 4}
    one = task(status, run=run, attempts=[{"status": -4, "attempt": 2}], error={"code": "x", "message": "m"}, result=1)
    change = transitions.retry_change(one, REQUEST, now=NOW)
    if not is_finished(status):
        assert change is None
        return
    assert change is not None and change.mtime == BEFORE
    left = after(change, one)
    assert left["status"] == Status.CREATED and "error" not in left and "result" not in left
    assert left["attempts"][0] == {"status": -4, "attempt": 2}
    assert left["attempts"][1]["attempt"] == 3 and left["attempts"][1]["exit_code"] == 4
    assert left["attempts"][1]["status"] == status and left["attempts"][1]["error"] == {"code": "x", "message": "m"}
    assert left["retried"] == {**REQUEST, "attempts": 3}
    again = Task.from_document(left)
    assert again.next_attempt == 4 and again.next_attempt - again.attempts_forgiven == 1


def test_a_retry_of_what_was_cancelled_before_its_first_attempt_counts_none() -> None:
    one = task(Status.CANCELLED, run={"cancelled": REQUEST}, error={"code": "cancelled", "message": "m"})
    change = transitions.retry_change(one, REQUEST, now=NOW)
    assert change is not None
    again = Task.from_document(after(change, one))
    assert again.attempts == [] and again.run == {} and again.next_attempt == 1 and again.attempts_forgiven == 0
    assert again.document["retried"]["cancelled"] == REQUEST  # who cancelled it, and why, stays in its history


def follower(**fields: Any) -> Task:
    return task(Status.BLOCKED, **{"after": ["a", "b"], **fields})


def ended(task_id: str, status: int) -> Task:
    return Task.from_document({"_id": task_id, "status": status})


def test_a_follower_is_created_when_the_last_one_that_it_waits_for_has_concluded() -> None:
    one = follower()
    change = transitions.follow_change(one, ended("a", Status.CONCLUDED), now=NOW)
    assert change is not None and change.mtime == BEFORE and "status" not in change.set
    left = after(change, one)
    assert left["after"] == ["b"]
    one = Task.from_document(left)
    change = transitions.follow_change(one, ended("b", Status.CONCLUDED), now=NOW)
    assert change is not None and change.set["status"] == Status.CREATED and "after" not in after(change, one)


def test_a_follower_that_is_also_delayed_stays_blocked_until_its_time() -> None:
    one = follower(after=["a"], not_before=NOW + timedelta(hours=1))
    change = transitions.follow_change(one, ended("a", Status.CONCLUDED), now=NOW)
    assert change is not None and "status" not in change.set
    assert "after" not in after(change, one) and "not_before" in after(change, one)


@pytest.mark.parametrize("status", [Status.FAILED, 9, Status.TERMINATED, Status.CANCELLED, Status.ORPHANED])
def test_a_follower_of_what_failed_waits_on_and_says_why_until_that_has_concluded(status: int) -> None:
    one = follower(after=["a"])
    change = transitions.follow_change(one, ended("a", status), now=NOW)
    assert change is not None and "status" not in change.set and "after" not in change.unset
    left = after(change, one)
    assert left["error"]["code"] == "after_failed" and left["error"]["task"] == "a" and left["after"] == ["a"]
    told = Task.from_document(left)
    assert transitions.follow_change(told, ended("a", status), now=NOW) is None
    change = transitions.follow_change(told, ended("a", Status.CONCLUDED), now=NOW)
    assert change is not None and "error" not in after(change, told) and change.set["status"] == Status.CREATED


def test_a_follower_that_does_not_mind_runs_after_any_end_but_not_while_nobody_knows_the_end() -> None:
    one = follower(after=["a"], after_any=True)
    for status in (Status.FAILED, 5, Status.TERMINATED, Status.CANCELLED, Status.CONCLUDED):
        change = transitions.follow_change(one, ended("a", status), now=NOW)
        assert change is not None and change.set["status"] == Status.CREATED
    change = transitions.follow_change(one, ended("a", Status.ORPHANED), now=NOW)
    assert change is not None and "status" not in change.set and change.set["error"]["code"] == "after_failed"


def test_the_reason_of_a_follower_names_the_task_that_still_keeps_it_waiting() -> None:
    one = follower()
    change = transitions.follow_change(one, ended("a", Status.FAILED), now=NOW)
    assert change is not None
    told = Task.from_document(after(change, one))
    change = transitions.follow_change(told, ended("b", Status.CONCLUDED), now=NOW)
    assert change is not None
    left = after(change, told)
    assert left["after"] == ["a"] and left["error"]["task"] == "a"


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [("100/m", 100, 60), ("5/s", 5, 1), ("10/30s", 10, 30), ("1000/d", 1000, 86400), ("3 / 500ms", 3, 0.5)],
)
def test_rates_are_read(text: str, count: int, seconds: float) -> None:
    assert parse_rate(text) == Rate(count, seconds)


@pytest.mark.parametrize("text", ["", "100", "/m", "0/s", "100/", "1/0s", "a/m", "-1/s", "1/m/s", 5, None, ["1/s"]])
def test_what_is_no_rate_is_said_in_one_line(text: Any) -> None:
    with pytest.raises(ValueError, match="expected a rate like"):
        parse_rate(text)


@given(st.integers(1, 10**6), st.floats(0.1, 10**6))
def test_bursts_and_intervals_never_let_more_start_in_a_period_than_the_rate_says(count: int, seconds: float) -> None:
    rate = Rate(count, seconds)
    # A burst at the beginning of the period, then one an interval until just before its end.
    in_one_period = rate.burst + int(seconds / rate.interval_seconds - 1e-9)
    assert in_one_period <= count


def test_a_queue_says_what_is_wrong_with_its_limits_and_runs_nothing_then() -> None:
    good = Queue.from_document(
        {"_id": "q", "class": "A", "maxtotal": 5.0, "rate": "10/s", "sort": "lifo", "keep": "30d", "paused": True}
    )
    assert good.fault is None and good.maxtotal == 5 and good.rate == Rate(10, 1.0) and good.sort is Sort.LIFO
    assert good.keep_seconds == 30 * 86400 and good.paused == {}
    bad = Queue.from_document({"_id": "q", "class": "A", "maxtotal": -1, "rate": "fast", "sort": "up", "keep": "x"})
    assert bad.fault is not None
    for name in ("maxtotal", "rate", "sort", "keep"):
        assert f'"{name}"' in bad.fault
    assert Queue.from_document({"_id": "q", "class": "A", "paused": False}).paused is None

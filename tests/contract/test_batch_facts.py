"""What the tasks of a batch tell together, on both stores, and what of it stays once the batch is done."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from disbatch_host.client import control
from disbatch_host.client.batch_progress import BatchNow, now_of, progress_of
from disbatch_host.clock import SystemClock
from disbatch_host.documents import batch as batches
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.changes import TaskChange
from disbatch_host.documents.records import new_task
from disbatch_host.documents.requests import request_of
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.duties.batches import Settled, Surveys, settle_batches
from disbatch_host.node.pace import Pace
from disbatch_host.store import batch_ends, batch_facts
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.steps import walk
from helpers.stores import NOW


def ended(number: int, *, attempt: int = 1) -> dict[str, Any]:
    """A task that began `number` seconds after NOW and took so many seconds."""
    began, took = NOW + timedelta(seconds=number), timedelta(seconds=number)
    run = {"attempt": attempt, "started": began, "ended": began + took, "seconds": float(number)}
    return {**new_task("q", {}, now=NOW, batch="b"), "status": 1, "run": run}


def batch(store: Store) -> Batch:
    found = batch_ends.read(store, "b")
    assert found is not None
    return found


def closed(store: Store) -> Batch:
    assert store.insert_batch(batches.new_batch("b", "me", now=NOW - timedelta(minutes=1), source={"kind": "tasks"}))
    assert batch_ends.apply(store, batch(store), batches.close_change("me", now=NOW))
    return batch(store)


def test_a_batch_that_is_done_keeps_its_attempts_its_slowest_tasks_and_how_long_it_took(store: Store) -> None:
    again = ended(7, attempt=3)
    again["attempts"] = [{"attempt": 1, "started": NOW - timedelta(seconds=30), "ended": NOW}]
    never_ran = {**new_task("q", {}, now=NOW, batch="b"), "status": -5, "run": {"ended": NOW + timedelta(days=1)}}
    ids = store.insert_tasks([*map(ended, range(1, 7)), again, never_ran])
    done = batch_ends.finish(store, closed(store))
    assert done is not None
    summary = batch(store).summary
    assert summary is not None and summary == done.summary
    assert summary["attempts"] == 6 + 3 and summary["looked_at"] == 8
    slowest = [str(ids[number]) for number in (6, 5, 4, 3, 2)]
    assert [one["_id"] for one in summary["slowest"]] == slowest
    assert [one["seconds"] for one in summary["slowest"]] == [7, 6, 5, 4, 3]
    assert (summary["first_start"], summary["last_end"]) == (NOW - timedelta(seconds=30), NOW + timedelta(seconds=14))

    # Whatever can be read of the tasks later.
    assert store.delete_tasks(ids) == 8
    progress = progress_of(store, batch(store), look_seconds=0.0)
    assert progress.is_looked_at and progress.facts == batch_facts.from_summary(summary)
    told = progress.to_json()
    assert told["attempts"] == 9 and told["slowest"] == summary["slowest"]
    assert (told["run_seconds"], told["since_creation_seconds"]) == (44.0, 74.0)


def test_what_was_not_looked_at_is_told(store: Store) -> None:
    store.insert_tasks([*map(ended, range(1, 40)), new_task("q", {}, now=NOW, batch="b")])
    seen = progress_of(store, closed(store), look_seconds=-1.0)
    assert (seen.facts.looked_at, seen.ended, seen.is_looked_at) == (1, 39, False)
    assert seen.to_json()["looked_at"] == 1 and seen.since_creation_seconds is None
    whole = progress_of(store, batch(store), look_seconds=60.0)
    assert whole.is_looked_at and whole.facts.attempts == 39


def test_a_summary_of_a_version_that_froze_nothing_is_completed_from_the_tasks(store: Store) -> None:
    store.insert_tasks([ended(1), ended(2)])
    before = closed(store)
    summary = {"total": 2, "concluded": 2, "failed": 0, "cancelled": 0, "orphaned": 0, "seconds": 9.0, "causes": []}
    assert batch_ends.apply(store, before, batches.done_change(before, summary, now=NOW))
    assert batch(store).state is BatchState.DONE and batch_facts.from_summary(batch(store).summary) is None
    assert progress_of(store, batch(store)).facts.attempts == 2


def test_numbers_of_now_are_counted_in_a_given_time(store: Store) -> None:
    store.insert_tasks([ended(1), {**ended(2), "status": 2}, new_task("q", {}, now=NOW, batch="b")])
    going_on = closed(store)
    assert list(now_of(store, [going_on])) == [BatchNow(total=3, ended=2, failed=1, is_counted=True)]
    assert list(now_of(store, [going_on], seconds=-1.0)) == [None]


def test_nobody_knows_how_long_a_batch_takes_whose_queue_is_paused(store: Store) -> None:
    store.insert_queue({"_id": "q", "class": "a"})
    source = {"kind": "push", "queue": "q"}
    assert store.insert_batch(batches.new_batch("b", "me", now=NOW, source=source))
    store.insert_tasks([ended(1), new_task("q", {}, now=NOW, batch="b")])
    running = progress_of(store, batch(store))
    assert running.per_second is not None and running.left_seconds is not None
    assert store.update_queue("q", {"paused": {"at": NOW, "by": "me"}}, ())
    assert progress_of(store, batch(store)).left_seconds is None


def settle(store: Store, surveys: Surveys) -> Settled:
    """One look that has no time."""
    return settle_batches(store, "n1", Troubles(SystemClock(), Pace()), surveys, seconds=0.0)


def test_the_end_of_a_large_batch_is_surveyed_in_pieces(store: Store) -> None:
    """The thread of the store had nothing else done for two seconds where there were a million tasks."""
    failed = {"status": 2, "error": {"code": "exit_3", "message": "m", "group": {"text": "exit_3", "key": "0" * 8}}}
    store.insert_tasks([{**ended(number % 9), **(failed if number % 2 else {})} for number in range(230)])
    closed(store)
    surveys, pieces = Surveys(), 0
    while batch(store).state is BatchState.CLOSED:
        settled = settle(store, surveys)
        pieces += 1
        assert settled.goes_on is not settled.is_all
    summary = batch(store).summary
    assert summary is not None and 9 <= pieces <= 10
    assert (summary["looked_at"], summary["attempts"], summary["failed"]) == (230, 230, 115)
    assert [one["seconds"] for one in summary["slowest"]] == [8] * 5
    assert summary["causes"] == [{"key": "0" * 8, "text": "exit_3", "count": 115}]
    assert settle(store, surveys) == Settled()


def test_a_survey_begins_again_if_tasks_have_run_again_meanwhile(store: Store) -> None:
    ids = store.insert_tasks([*map(ended, range(120))])
    closed(store)
    surveys = Surveys()
    assert settle(store, surveys).goes_on and settle(store, surveys).goes_on
    task = store.get_task(ids[0])
    assert task is not None
    (changes,) = control.retry(store, [task], request_of("me", None, now=NOW))
    assert [one.is_done for one in changes] == [True]
    assert settle(store, surveys) == Settled(), "it goes on"
    walk(store, ids[0], Status.CONCLUDED)
    again = {"attempt": 2, "started": NOW, "ended": NOW + timedelta(hours=1), "seconds": 3600.0}
    assert not store.change_tasks([TaskChange(task_id=ids[0], statuses=frozenset({1}), set={"run": again})])
    while batch(store).state is BatchState.CLOSED:
        settle(store, surveys)
    summary = batch(store).summary
    assert summary is not None and (summary["looked_at"], summary["attempts"]) == (120, 121)
    assert summary["slowest"][0] == {"_id": str(ids[0]), "seconds": 3600.0}


def test_a_survey_takes_no_more_time_in_all_than_it_may(store: Store) -> None:
    store.insert_tasks([*map(ended, range(120))])
    look = batch_facts.Look("b", seconds=1e-9)
    assert look.go_on(store, 60.0) and look.facts().looked_at == 1

"""What the start of an attempt does with the outputs of those before it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from disbatch_host.documents import requests, transitions
from disbatch_host.documents.changes import INLINE_OUTPUT_MAX, OUTPUT_CHUNK_SIZE, RunChange, RunKey
from disbatch_host.documents.new_parameters import CHANGED, NewParameters, changed_values
from disbatch_host.documents.records import Task
from disbatch_protocol.outcome import Conclusion, Outcome
from disbatch_protocol.status import Status

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
REQUEST = requests.request_of("kim@desk", None, now=NOW)
KEY = RunKey("t", "n1", "new")


def output(stdout: int = 3, stderr: int = 0, *, in_file: bool = False) -> dict[str, Any]:
    return {
        "stdout": {"bytes": stdout, "in_file": in_file},
        "stderr": {"bytes": stderr, "in_file": False},
    }


def attempt(number: int, **more: Any) -> dict[str, Any]:
    return {"attempt": number, "token": f"t{number}", "status": -4, "output": output(), **more}


def task(*attempts: Any, stdout: str = "out", stderr: str = "", **run: Any) -> Task:
    """One whose last attempt has ended, and is claimed again."""
    last = {"attempt": len(attempts), "token": f"t{len(attempts)}", "output": output(), **run}
    fields = {"attempts": list(attempts)} if attempts else {}
    document = {"_id": "t", "queue": "q", "status": -1, "node": "n1", "claim": {"token": "new"}, **fields}
    return Task.from_document({**document, "stdout": stdout, "stderr": stderr, "run": last})


def start(one: Task, keep_attempts: int = 3) -> RunChange:
    return transitions.start_change(one, KEY, {"token": "new"}, now=NOW, keep_attempts=keep_attempts)


def kept(change: RunChange) -> dict[tuple[str | None, str], bytes]:
    found: dict[tuple[str | None, str], bytes] = {}
    for chunk in change.keeps:
        assert chunk.number * OUTPUT_CHUNK_SIZE == len(found.get((chunk.key.token, chunk.stream), b""))
        assert chunk.key.task_id == "t" and len(chunk.data) <= OUTPUT_CHUNK_SIZE
        found[chunk.key.token, chunk.stream] = found.get((chunk.key.token, chunk.stream), b"") + chunk.data
    return found


def test_a_first_attempt_does_nothing_of_the_kind() -> None:
    fresh = Task.from_document({"_id": "t", "queue": "q", "status": -1, "stdout": "somebody's", "stderr": ""})
    change = start(fresh)
    assert change.keeps == change.forgets == () and "attempts" not in change.set


def test_the_text_in_the_document_becomes_pieces_of_its_attempt() -> None:
    change = start(task(attempt(1), stdout="äö", stderr="why"))
    assert kept(change) == {("t1", "stdout"): "äö".encode(), ("t1", "stderr"): b"why"}
    assert change.forgets == () and "attempts" not in change.set and change.set["stdout"] == ""


def test_text_of_many_pieces_is_cut_at_their_size() -> None:
    text = "x" * (2 * OUTPUT_CHUNK_SIZE + 5)
    assert kept(start(task(attempt(1), stdout=text))) == {("t1", "stdout"): text.encode()}


@pytest.mark.parametrize(
    "last",
    [
        {"stdout": "x" * 9, "output": output(in_file=True)},
        {"stdout": "a line about it", "output": {"stdout": {"bytes": 7, "in_file": False, "encoding": "binary"}}},
        {"stdout": "x" * INLINE_OUTPUT_MAX, "output": {}},  # of a lost run
        {"stdout": "x" * (INLINE_OUTPUT_MAX - 3), "output": {}},
    ],
)
def test_what_is_in_pieces_already_is_not_written_again(last: dict[str, Any]) -> None:
    change = start(task(attempt(1, output=last["output"]), **last))
    assert change.keeps == () and change.forgets == ()


def test_of_a_lost_run_what_it_had_said_is_kept() -> None:
    lost = Task.from_document(
        {
            "_id": "t", "queue": "q", "status": 0, "node": "n1", "claim": {"token": "t1"}, "stdout": "so far",
            "stderr": "", "run": {"token": "t1", "attempt": 1, "pid": 7, "started": NOW, "idempotent": True},
        }
    )  # fmt: skip
    change = transitions.lost_change(lost, node="n1", now=NOW + timedelta(seconds=1))
    again = Task.from_document({**lost.document, **change.set, "status": -1, "claim": {"token": "new"}})
    assert again.attempts[0]["output"] == {} and again.attempts[0]["token"] == "t1"
    assert kept(start(again)) == {("t1", "stdout"): b"so far"}


def test_only_so_many_are_kept_and_the_document_says_which() -> None:
    change = start(task(attempt(1), attempt(2), attempt(3)))
    assert kept(change) == {("t3", "stdout"): b"out"} and change.forgets == ("t1",)
    assert ["output" in one for one in change.set["attempts"]] == [False, True, True]
    assert change.set["attempts"][0]["token"] == "t1"
    later = start(task(*change.set["attempts"][:2], attempt(3), attempt(4)))
    assert later.forgets == ("t2",)  # each is named once


def test_a_queue_may_keep_more_or_none() -> None:
    many = [attempt(number) for number in range(1, 51)]
    assert start(task(*many), 50).forgets == ("t1",)
    assert start(task(*many[:49]), 50).forgets == ()
    none = start(task(attempt(1), attempt(2)), 1)
    assert none.keeps == () and none.forgets == ("t1", "t2")
    assert ["output" in one for one in none.set["attempts"]] == [False, False]
    assert start(task(*many), 3).forgets == tuple(f"t{number}" for number in range(1, 49))  # it kept more before


def test_an_attempt_of_which_nothing_says_that_it_is_kept_goes_as_ever() -> None:
    """It was ended by a node of an earlier version."""
    change = start(task({"attempt": 1, "status": -4}))
    assert change.keeps == () and change.forgets == ("t1",)


def test_an_attempt_that_ends_without_a_start_keeps_those_before() -> None:
    conclusion = Conclusion(status=Status.FAILED, outcome=Outcome.PERMANENT, attempt_used=True)
    change = transitions.end_change(
        task(attempt(1), attempt(2), attempt(3)), KEY, left=Status.CLAIMED, run={"token": "new"},
        conclusion=conclusion, error={"code": "parameters", "message": "m"}, fields={"stdout": "", "stderr": ""},
        not_before=None, now=NOW,
    )  # fmt: skip
    assert kept(change) == {("t3", "stdout"): b"out"} and change.forgets == ("t1",)
    assert "output" not in change.set["attempts"][0]


def retried(one: Task, **more: Any) -> Task:
    change = transitions.retry_change(one, REQUEST, now=NOW, **more)
    assert change is not None
    return Task.from_document({**one.document, **change.set})


def ended(**fields: Any) -> Task:
    run = {"token": "t1", "attempt": 1, "started": NOW, "ended": NOW, "output": output()}
    return Task.from_document(
        {"_id": "t", "queue": "q", "status": 2, "node": "n1", "stdout": "out", "parameters": {"a": 1}, "run": run}
        | fields
    )


def test_a_retry_by_hand_keeps_the_output_alike() -> None:
    again = retried(ended())
    assert again.attempts == [
        {"attempt": 1, "token": "t1", "started": NOW, "ended": NOW, "output": output(), "status": 2}
    ]
    assert kept(start(again)) == {("t1", "stdout"): b"out"}


def test_an_attempt_is_in_the_list_once_however_often_its_task_is_retried() -> None:
    """Cancelled before it started again, and retried: the last run is still the one that was added before."""
    again = retried(ended())
    cancelled = Task.from_document({**again.document, "status": -5, "run": {**again.run, "cancelled": REQUEST}})
    twice = retried(cancelled)
    assert len(twice.attempts) == 1 and twice.document["retried"]["cancelled"] == REQUEST


def new(values: dict[str, Any], before: dict[str, Any] | str) -> NewParameters:
    return NewParameters(values=values, before=before, secrets=("/pin",))


def test_the_attempt_before_keeps_the_values_that_it_ran_with() -> None:
    again = retried(ended(), new=new({"a": 2}, {"a": 1}))
    assert again.parameters == {"a": 2} and again.document["secrets"] == ["/pin"]
    assert again.attempts[0]["parameters"] == {"a": 1}
    unused = Task.from_document({**again.document, "status": -5})
    third = retried(unused, new=new({"a": 3, "b": 1}, {"a": 2, "b": None}))
    assert third.attempts[0]["parameters"] == {"a": 1, "b": None}  # not 2, which never ran
    large = retried(Task.from_document({**third.document, "status": -5}), new=new({}, CHANGED))
    assert large.attempts[0]["parameters"] == CHANGED


def test_the_values_of_a_task_that_was_never_started_are_kept_with_the_request() -> None:
    again = retried(ended(run={}, status=-5), new=new({"a": 2}, {"a": 1}))
    assert again.attempts == [] and again.document["retried"]["parameters"] == {"a": 1}


def test_a_value_has_changed_if_json_would_show_it() -> None:
    old = {"a": 1, "b": [1, {"c": True}], "same": {"x": [None]}, "gone": 1}
    same = {"a": 1.0, "b": [1, {"c": 1}], "same": {"x": [None]}, "new": 0}
    assert changed_values(old, same, {**old, "b": "***"}) == {"a": 1, "b": "***", "new": None}

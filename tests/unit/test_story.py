"""The story of a task: everything in its document that has a time, in the order of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from disbatch_host.cli import story
from disbatch_host.documents.records import Task
from disbatch_protocol.status import Status

T = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def told(**fields: Any) -> list[tuple[str, str]]:
    document = {"_id": "6b066cc838b0000246adfe38", "queue": "q", "ctime": T, "mtime": T, "parameters": {}, **fields}
    return story.told(Task.from_document(document), now=at(1000))


def names(facts: list[tuple[str, str]]) -> list[str]:
    return [name for name, _ in facts]


def test_a_task_that_was_tried_failed_was_run_again_by_a_person_and_concluded() -> None:
    attempt = {"attempt": 1, "node": "n1", "started": at(2), "ended": at(5), "seconds": 3.0, "reason": "exited",
               "exit_code": 3, "status": 2, "error": {"code": "exit_3", "message": "one\nno space left"}}  # fmt: skip
    facts = told(
        status=int(Status.CONCLUDED),
        node="n2",
        attempts=[attempt],
        retried={"at": at(65), "by": "ann@desk", "why": "disk is larger now", "attempts": 1},
        claim={"token": "t", "at": at(65.5)},
        run={"attempt": 2, "node": "n2", "started": at(65.501), "ended": at(66), "seconds": 0.5, "exit_code": 0,
             "reason": "exited"},
    )  # fmt: skip
    assert names(facts) == ["created", "attempt 1", "retried", "claimed", "started", "ended"]
    said = dict(facts)
    assert said["created"].endswith("(17 min ago)")
    assert said["attempt 1"].endswith("(2 s later), on n1, exit code 3, after 3 s: no space left")
    assert said["retried"].endswith("(1m later), by ann@desk: disk is larger now")  # since the attempt has ended
    assert said["claimed"].endswith("(500 ms later), by node n2")
    assert said["started"].endswith("(1 ms later), attempt 2 on node n2")
    assert said["ended"].endswith(", exit code 0, after 0.5 s")


def test_what_waits_says_for_what_and_until_when() -> None:
    facts = told(status=int(Status.BLOCKED), node=-1, after=["a", "b", "c", "d"], not_before=at(1060), expires=at(4600))
    said = dict(facts)
    assert said["waits for"] == "task a, b, c and 1 more"
    assert said["not before"].endswith("(in 60 s)")
    assert said["expires"].endswith("(in 60 min)")
    assert said["waits"] == "`disbatch-host task why 6b066cc838b0000246adfe38` says why"


def test_what_waits_says_why_where_that_is_known() -> None:
    task = Task.from_document({"_id": "a", "queue": "q", "ctime": T, "mtime": T, "parameters": {}, "status": -2})
    said = dict(story.told(task, now=at(5), why="it waits: no node is alive"))
    assert said["waits"] == "it waits: no node is alive"


def test_a_run_that_goes_on_says_for_how_long() -> None:
    run = {"attempt": 1, "node": "n1", "started": at(2)}
    said = dict(told(status=int(Status.RUNNING), node="n1", run=run))
    assert said["started"].endswith("attempt 1 on node n1, running for 16m38s")


def test_a_claim_comes_before_the_start_whatever_the_clocks_say() -> None:
    """On MongoDB the claim has the server's time, a millisecond after the node's."""
    run = {"attempt": 1, "node": "n1", "token": "t", "started": at(2)}
    facts = told(status=int(Status.RUNNING), node="n1", claim={"token": "t", "at": at(2.001)}, run=run)
    assert names(facts) == ["created", "claimed", "started"]


def test_a_cancel_before_the_first_attempt_is_kept_when_the_task_is_retried() -> None:
    retried = {"at": at(9), "by": "ann", "attempts": 0, "cancelled": {"at": at(5), "by": "bob", "why": "wrong"}}
    facts = told(status=int(Status.CREATED), node=-1, retried=retried)
    assert names(facts) == ["created", "cancelled", "retried", "waits"]
    assert dict(facts)["cancelled"].endswith("(5 s later), by bob: wrong")


def test_a_cancelled_run_tells_who_asked_before_how_it_ended() -> None:
    run = {"attempt": 1, "node": "n1", "started": at(2), "ended": at(9), "seconds": 7.0, "reason": "cancelled",
           "signal": "TERM", "cancelled": {"at": at(8), "by": "ann@desk", "why": "wrong list"}}  # fmt: skip
    facts = told(status=int(Status.CANCELLED), node="n1", run=run)
    assert names(facts) == ["created", "started", "cancel asked", "ended"]
    assert dict(facts)["cancel asked"].endswith("(6 s later), by ann@desk: wrong list")
    asked = told(
        status=int(Status.RUNNING), node="n1", run={"attempt": 1, "node": "n1", "started": at(2)},
        cancel={"at": at(8), "by": "ann@desk"},
    )  # fmt: skip
    assert names(asked) == ["created", "started", "cancel asked"]


def test_a_task_that_was_cancelled_before_it_was_started_tells_by_whom() -> None:
    facts = told(
        status=int(Status.CANCELLED), node=-1, mtime=at(5), run={"cancelled": {"at": at(5), "by": "ann", "why": "old"}}
    )
    assert names(facts) == ["created", "ended"]
    assert dict(facts)["ended"].endswith("(5 s later), cancelled by ann: old")


def test_a_lost_run_has_no_end_that_anybody_knows() -> None:
    run = {"attempt": 1, "node": "n1", "started": at(2), "ended": at(99), "seconds": 97.0, "reason": "lost"}
    facts = told(status=int(Status.ORPHANED), node="n1", claim={"token": "t", "at": at(90)}, run=run)
    assert names(facts) == ["created", "started", "ended"]
    assert dict(facts)["ended"].startswith("lost, at an unknown time; found at 20")


def test_documents_of_other_programs_and_people_break_nothing() -> None:
    for odd in (None, 5, "x", [], {}, [None], {"at": "yesterday"}):
        for name in (
            "ctime",
            "mtime",
            "attempts",
            "retried",
            "claim",
            "run",
            "cancel",
            "after",
            "not_before",
            "expires",
        ):
            for status in (-6, -4, -2, 0, 1, 2, 7, -9):
                assert names(told(status=status, **{name: odd}))[0] == "created"


def test_what_was_never_started_says_so_once() -> None:
    """Refused parameters, a program that is not there, an id that no program can be given."""
    for more, is_started in (
        ({"reason": "parameters"}, False),
        ({"reason": "start_failed"}, False),
        ({"reason": "host_error"}, False),
        ({"reason": "host_error", "pid": 7, "pid_started": 1}, True),  # an error of the host while it ran
    ):
        run = {"attempt": 1, "node": "n1", "started": at(2), "ended": at(2), "seconds": 0.0, **more}
        facts = told(status=int(Status.FAILED), node="n1", run=run)
        assert ("started" in names(facts)) is is_started
        assert ("not started: " in dict(facts)["ended"]) is not is_started
        again = told(status=int(Status.CREATED), node=-1, attempts=[run])
        assert ("not started: " in dict(again)["attempt 1"]) is not is_started
    unknown = told(
        status=int(Status.FAILED), node="n1", run={"attempt": 1, "node": "n1", "ended": at(2), "reason": "host_error"}
    )
    assert names(unknown) == ["created", "ended"] and "not started" not in dict(unknown)["ended"]

"""The history of a task as events, for whatever shows them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client, history
from disbatch_host.client.history import Event, Kind
from disbatch_host.decide.words import error_in_short
from disbatch_host.documents.records import Task
from disbatch_host.errors import NotFoundError
from disbatch_host.store.contract import Store
from disbatch_protocol.outcome import Reason
from disbatch_protocol.status import Status


def kinds(events: list[Event]) -> list[Kind]:
    return [one.kind for one in events]


def test_a_task_that_waits_has_been_created_and_waits(client: Client, store: Store) -> None:
    client.queues.create("q", "mail")
    first = client.push("q", {}).id
    events = client.history(client.push("q", {}, after=[first], delay="1h", expires="2h").id)
    assert kinds(events) == [Kind.CREATED, Kind.WAITS_FOR, Kind.NOT_BEFORE, Kind.WAITS, Kind.EXPIRES]
    assert events[1].tasks == (first,) and events[1].at is None
    assert events[2].at is not None and events[2].at > store.now() + timedelta(minutes=59)


def test_attempts_and_who_asked_for_them_are_in_the_order_of_time(client: Client, store: Store) -> None:
    at = [store.now() - timedelta(seconds=100 - number) for number in range(10)]
    attempt = {"attempt": 1, "node": "n1", "started": at[1], "ended": at[2], "exit_code": 3,
               "error": {"message": "one\nno space left"}}  # fmt: skip
    task_id = put_task(
        store, ctime=at[0], by="ann@desk", status=Status.CANCELLED, node="n2", attempts=[attempt],
        retried={"at": at[3], "by": "bob@desk", "why": "larger disk"}, claim={"at": at[4], "token": "t"},
        run={"attempt": 2, "node": "n2", "started": at[5], "ended": at[7], "reason": "cancelled",
             "cancelled": {"at": at[6], "by": None}},
    )  # fmt: skip
    events = client.history(task_id)
    assert kinds(events) == [
        Kind.CREATED, Kind.ATTEMPT, Kind.RETRIED, Kind.CLAIMED, Kind.STARTED, Kind.CANCEL_ASKED, Kind.ENDED,
    ]  # fmt: skip
    created, first, retried, claimed, started, asked, ended = events
    assert (created.by, first.at, first.until, first.node) == ("ann@desk", at[1], at[2], "n1")
    assert first.run["exit_code"] == 3 and error_in_short(first.run) == "no space left"
    assert (retried.by, retried.why, claimed.node, started.run["attempt"]) == ("bob@desk", "larger disk", "n2", 2)
    assert (asked.by, asked.why, ended.at, ended.run["reason"]) == ("somebody", None, at[7], "cancelled")


def test_a_lost_run_ended_at_no_known_time(client: Client, store: Store) -> None:
    run = {"attempt": 1, "started": store.now(), "ended": store.now(), "reason": "lost"}
    events = client.history(put_task(store, age_seconds=1, status=Status.ORPHANED, node="n1", run=run))
    assert kinds(events) == [Kind.CREATED, Kind.STARTED, Kind.ENDED]
    assert events[-1].at is None and events[-1].run["reason"] == history.LOST == Reason.LOST


def test_an_end_without_a_run_says_what_it_was_and_who_wanted_it(client: Client, store: Store) -> None:
    client.queues.create("q", "mail")
    task_id = client.push("q", {}).id
    client.cancel(task_id, why="wrong letter")
    ended = client.history(task_id)[-1]
    assert (ended.kind, ended.status, ended.by, ended.why) == (Kind.ENDED, -5, "me@here", "wrong letter")


def test_a_task_was_created_before_anything_else_happened_to_it(client: Client, store: Store) -> None:
    """Whoever created it may have had a clock that was ahead."""
    now = store.now()
    task_id = put_task(store, status=Status.CANCELLED, ctime=now + timedelta(seconds=1), mtime=now, parent="p")
    assert [event.kind for event in client.history(task_id)][:2] == [Kind.CREATED, Kind.PARENT]


def test_a_task_that_is_not_there_is_an_error(client: Client) -> None:
    with pytest.raises(NotFoundError):
        client.history("nope")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, ""),
        ({"error": "text"}, ""),
        ({"error": {"message": " \n"}}, ""),
        ({"error": {"message": 7}}, ""),
        ({"error": {"message": "Traceback\ndisbatch-host: it was silent\n"}}, "Traceback; it was silent"),
        ({"error": {"message": "x" * 500}}, "x" * 500),
        ({"error": {"message": f"/{'a' * 300}/{'b' * 300}: No space"}}, f"/{'a' * 248}…{'b' * 240}: No space"),
    ],
)
def test_a_reason_is_one_line_and_keeps_its_end(fields: dict[str, Any], reason: str) -> None:
    task = Task.from_document({"_id": 1, "queue": "q", "status": 2, "ctime": datetime(2026, 1, 1), **fields})
    assert history.reason_in_short(task) == reason


@pytest.mark.parametrize(
    ("run", "doubts"),
    [
        ({}, []),
        ({"event_errors": 5, "output": {"stderr": "x"}}, []),
        ({"output": {"stderr": {"bytes": 0, "in_file": False}}}, []),
        ({"output": {"stderr": {"bytes": 2048, "in_file": False}}}, ["2 KiB on stderr"]),
        ({"event_errors": {"count": 1, "first": []}}, ["1 line on descriptor 3 ignored"]),
    ],
)
def test_what_may_be_wrong_with_a_task_that_concluded(run: dict[str, Any], doubts: list[str]) -> None:
    """Incident: 28 scripts went on after `gzip` had failed and exited with 0, and no list showed it."""
    task = Task.from_document({"_id": 1, "queue": "q", "status": 1, "ctime": datetime(2026, 1, 1), "run": run})
    assert history.doubts(task) == doubts


def test_an_error_in_short_has_the_words_of_the_program_and_those_of_the_host() -> None:
    """Incident: where `limits.memory` may have been why, nothing else was said of the error."""
    hint = "disbatch-host: limits.memory is 64 MiB of address space, which may be why"
    ours = hint.removeprefix("disbatch-host: ")
    signal, program = "disbatch-host: it was ended by signal ABRT", "Traceback:\n  x\nMemoryError"

    def short(message: Any, **more: Any) -> str:
        return error_in_short({"error": {"code": "c", "message": message, **more}})

    assert short(f"{program}\n{hint}\n") == f"MemoryError; {ours}"
    assert (
        short(f"{signal}\n{hint}", detail=f"{program}\n")
        == f"it was ended by signal ABRT; {ours} (stderr: MemoryError)"
    )
    assert short(f"{signal}\n{hint}") == f"it was ended by signal ABRT; {ours}"
    assert short(f"{signal}\nMemoryError") == "MemoryError"
    assert short(program, detail="other") == "MemoryError"
    assert (short(""), short(7), short(None, detail="x"), error_in_short({}), error_in_short({"error": "x"})) == (
        "",
    ) * 5

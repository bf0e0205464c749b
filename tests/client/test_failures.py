"""Why tasks have failed: grouped by cause, the most frequent first, and by code where a task names no cause."""

from __future__ import annotations

import shlex
from datetime import timedelta
from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client, Selection
from disbatch_host.client.failures import FailureFacts, find_failures, retry_command
from disbatch_host.documents.causes import with_group
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import TaskId
from disbatch_host.errors import FieldError, NotFoundError
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status


def failed(store: Store, code: Any, message: Any = "", queue: str = "q", **more: Any) -> TaskId:
    """As a node leaves it."""
    error = with_group({"code": code, "message": message})
    return put_task(store, queue, **{"status": Status.FAILED, "error": error, **more})


def failed_before(store: Store, code: Any, message: Any = "", queue: str = "q", **more: Any) -> TaskId:
    """As a node of an earlier version left it."""
    return put_task(store, queue, **{"status": Status.FAILED, "error": {"code": code, "message": message}, **more})


def test_a_store_without_failures_has_none(store: Store) -> None:
    put_task(store, status=Status.CONCLUDED)
    put_task(store, status=Status.CANCELLED)
    put_task(store)
    found = find_failures(store)
    assert (list(found.reasons), found.total, found.is_complete) == ([], 0, True)


def test_failures_with_one_cause_are_one_with_all_that_is_known_of_them(store: Store) -> None:
    run = {"plugin": {"class": "C", "version": "1.2"}}
    first = failed(store, "exit_3", "user 1: /a/b is full", age_seconds=60, node="n1", run=run)
    second = failed(store, "exit_3", "noise\nuser 22: /c is full", "other", node="n2", run=run)
    third = failed(store, "exit_3", "user 3: /d is full", age_seconds=30, node="n1")
    fourth = failed(store, "exit_3", "user 4: /e is full", age_seconds=30, node="n1")
    killed = failed(store, "timeout", "disbatch-host: too long", status=Status.TERMINATED)
    lost = failed(store, "exit_3", "user 4: /e is full", status=Status.ORPHANED, age_seconds=90, node="n3")
    found = find_failures(store)
    assert (found.total, found.orphaned, found.expired, found.other_groups) == (5, 1, 0, 0)
    full, late = found.reasons
    assert (full.text, full.code, full.count, full.orphaned) == ("exit_3: user <n>: <path> is full", "exit_3", 4, 1)
    assert full.queues == ("q", "other") and full.nodes == ("n1", "n2", "n3") and full.versions == ("1.2",)
    assert full.tasks == (lost, fourth, third) and first not in full.tasks and second not in full.tasks
    assert full.first is not None and full.last is not None
    assert timedelta(seconds=89) < full.last - full.first < timedelta(seconds=95)
    assert (late.key, late.text, late.tasks) == (late.key, "timeout: too long", (killed,))
    assert full.message == "user 4: /e is full" and full.to_json()["tasks"] == [str(one) for one in full.tasks]


def test_failures_of_an_earlier_version_are_grouped_by_their_code(store: Store) -> None:
    failed_before(store, "exit_3", "it broke\nno space left", age_seconds=60)
    newest = failed_before(store, "exit_3", "disbatch-host: the newest", queue="other")
    grouped = failed(store, "exit_3", "no space left")
    found = find_failures(store)
    assert [(one.key is None, one.code, one.count) for one in found.reasons] == [
        (True, "exit_3", 2), (False, "exit_3", 1),
    ]  # fmt: skip
    plain, with_cause = found.reasons
    assert (plain.message, plain.text, plain.example, plain.queues) == (
        "the newest", "exit_3", str(newest), ("other", "q"),
    )  # fmt: skip
    assert with_cause.tasks == (grouped,)


def test_errors_that_another_program_has_written_count_under_their_status(store: Store) -> None:
    put_task(store, status=7, error="a text")
    failed_before(store, None, 5)
    put_task(store, status=Status.FAILED, error={"code": "x", "group": "none"})
    found = find_failures(store)
    assert {one.code: one.message for one in found.reasons} == {"failed (7)": "", "failed": "", "x": ""}


def test_the_most_frequent_are_told_apart_and_the_others_counted(store: Store) -> None:
    for number in range(3):
        for _ in range(number + 1):
            failed(store, f"code_{number}")
    failed_before(store, "old")
    found = find_failures(store, limit=2)
    assert [one.code for one in found.reasons] == ["code_2", "code_1"]
    assert (found.other_groups, found.other_total, found.total) == (2, 2, 7)


def test_what_expired_is_counted_beside_and_what_was_cancelled_is_not_there(store: Store) -> None:
    failed(store, "expired", "disbatch-host: it was not started before it expired", status=Status.CANCELLED)
    put_task(store, status=Status.CANCELLED, error={"code": "cancelled", "message": "by me"})
    (one,) = find_failures(store).reasons
    assert (one.code, one.count, one.expired, one.total) == ("expired", 0, 1, 1)


def test_a_client_finds_failures_of_all_queues_of_one_and_of_a_selection(client: Client) -> None:
    failed(client.store, "a", age_seconds=7200)
    failed(client.store, "b", queue="deleted", run={"plugin": {"class": "C", "version": "2"}})
    assert [one.code for one in client.failures().reasons] == ["a", "b"]
    assert [one.code for one in client.failures("deleted").reasons] == ["b"]
    for which in (Selection(class_name="C"), Selection(version="2"), Selection(ended_since=timedelta(hours=1))):
        assert [one.code for one in client.failures(which).reasons] == ["b"]
    with pytest.raises(NotFoundError):
        client.failures("none")


def test_a_client_retries_cancels_and_deletes_what_has_one_cause(client: Client) -> None:
    store = client.store
    mine = [failed(store, "exit_1", f"user {number} is gone", queue=f"q{number}") for number in range(3)]
    late = failed(store, "exit_1", "user 9 is gone", status=Status.ORPHANED)
    again = failed(store, "exit_1", "user 9 is gone", status=Status.BLOCKED)
    other = failed(store, "exit_1", "no room")
    key = next(one.key for one in client.failures().reasons if "user" in one.text)
    assert key is not None
    which = Selection(failure=key.upper())
    assert [one.id for one in client.find(which)] == [*mine, late, again]
    assert client.cancel(which).done == 1 and client.get(again).status == Status.CANCELLED
    assert client.retry(Selection(failure=key, queue="q1")).done == 1
    assert client.retry(which).done == 3
    assert {client.get(one).status for one in (*mine, late)} == {Status.CREATED}
    assert client.get(other).status == Status.FAILED and client.count(which) == 0
    assert client.delete(Selection(failure=client.failures().reasons[0].key)).done == 1
    with pytest.raises(NotFoundError):
        client.get(other)
    for wrong in ("", "zzzzzzzz", "1234567", "123456789"):
        with pytest.raises(FieldError, match="expected a key of 8 hexadecimal digits"):
            client.count(Selection(failure=wrong))


def test_the_command_that_retries_a_cause_is_one_for_a_shell(store: Store) -> None:
    reason = FailureFacts(code="exit_1", count=2, queues=("it's",), message="", key="0123abcd")
    assert shlex.split(retry_command(reason, TaskFilter()))[3:] == ["--failure", "0123abcd", "--queue", "it's"]
    which = TaskFilter(node="n1", version="1 or 2; rm -rf x", class_name="A::B", batch="b", changed_since=store.now())
    words = shlex.split(retry_command(reason, which))
    assert words[words.index("--version") + 1] == "1 or 2; rm -rf x" and words[words.index("--class") + 1] == "A::B"
    assert "--ended-since" in words and words[words.index("--batch") + 1] == "b"
    of_batch = retry_command(reason, TaskFilter(batch="it's"))
    assert shlex.split(of_batch) == ["disbatch-host", "batch", "retry", "it's", "--failure", "0123abcd"]
    plain = FailureFacts(code="exit_1", count=2, queues=("a", "b"), message="", orphaned=1)
    assert retry_command(plain, TaskFilter()).endswith("retry --error exit_1 --status failed,orphaned")
    # `batch retry` takes failed ones alone.
    assert retry_command(plain, TaskFilter(batch="b")).endswith("--status failed,orphaned --batch b")
    plain = FailureFacts(code="exit_1", count=2, queues=("a", "b"), message="")
    assert retry_command(plain, TaskFilter(batch="b")) == "disbatch-host batch retry b --error exit_1"

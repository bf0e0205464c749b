"""Why tasks have failed: grouped by code, the most frequent first, of the newest of each queue."""

from __future__ import annotations

from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client
from disbatch_host.client.failures import FailureFacts, find_failures
from disbatch_host.documents.records import TaskId
from disbatch_host.errors import NotFoundError
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status


def failed(store: Store, code: Any, message: Any = "", queue: str = "q", **more: Any) -> TaskId:
    return put_task(store, queue, **{"status": Status.FAILED, "error": {"code": code, "message": message}, **more})


def test_a_store_without_failures_has_none(store: Store) -> None:
    put_task(store, status=Status.CONCLUDED)
    put_task(store, status=Status.CANCELLED)
    put_task(store)
    found = find_failures(store)
    assert (found.reasons, found.seen, found.total) == ((), 0, 0)


def test_failures_are_grouped_by_code_with_the_newest_of_each_as_the_example(store: Store) -> None:
    failed(store, "exit_3", "it broke\nno space left", age_seconds=60)
    newest = failed(store, "exit_3", "disbatch-host: the newest", queue="other")
    failed(store, "exit_3", "older", age_seconds=30)
    put_task(store, status=Status.ORPHANED, age_seconds=10)  # lost, and nobody knows whether it has failed
    killed = failed(store, "timeout", status=Status.TERMINATED)
    found = find_failures(store)
    assert (found.seen, found.total) == (4, 4)
    assert list(found.reasons) == [
        FailureFacts(code="exit_3", count=3, queues=("q", "other"), message="the newest", example=str(newest)),
        FailureFacts(code="timeout", count=1, queues=("q",), message="", example=str(killed)),
    ]
    assert found.reasons[0].to_json() == {
        "code": "exit_3", "count": 3, "queues": ["q", "other"], "message": "the newest",
    }  # fmt: skip


def test_failures_of_one_queue_are_found_alone(store: Store) -> None:
    failed(store, "a")
    failed(store, "b", queue="other")
    assert [one.code for one in find_failures(store, queue="other").reasons] == ["b"]


def test_only_the_newest_are_read_and_the_total_is_said(store: Store) -> None:
    for age in (30, 20, 10):
        failed(store, f"code{age}", age_seconds=age)
    found = find_failures(store, limit=2)
    assert {one.code for one in found.reasons} == {"code20", "code10"}
    assert (found.seen, found.total) == (2, 3)


def test_errors_that_another_program_has_written_count_under_their_status(store: Store) -> None:
    put_task(store, status=7, error="a text")
    failed(store, None, 5)
    assert {one.code: one.message for one in find_failures(store).reasons} == {"failed (7)": "", "failed": ""}


def test_a_client_finds_failures_of_all_queues_or_of_one_that_is_known(client: Client) -> None:
    failed(client.store, "a")
    failed(client.store, "b", queue="deleted")
    assert [one.code for one in client.failures().reasons] == ["a", "b"]
    assert [one.code for one in client.failures("deleted").reasons] == ["b"]
    with pytest.raises(NotFoundError):
        client.failures("none")

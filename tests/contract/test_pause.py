"""A pause is a pause: on SQLite the claim itself looks at the queue and the node as they are now."""

from __future__ import annotations

from typing import Any

import pytest

from disbatch_host.documents.changes import Want
from disbatch_host.store.sqlite import SqliteStore
from helpers.stores import push


@pytest.fixture
def queue(sqlite: SqliteStore) -> SqliteStore:
    sqlite.insert_queue({"_id": "q", "class": "A"})
    push(sqlite, *({} for _ in range(9)))
    return sqlite


def claimed(store: SqliteStore, count: int = 9, in_hand: int = 0, queue: str = "q") -> int:
    return len(store.claim("n1", [Want(queue, count, in_hand=in_hand)], f"t{store.new_ids(1)}"))


@pytest.mark.parametrize(
    "fields", [{"paused": {"by": "me"}}, {"paused": True}, {"maxthreads": 0}, {"nodes_ignore": ["n1"]}, {"class": 5}]
)
def test_nothing_is_claimed_once_the_document_says_so(queue: SqliteStore, fields: dict[str, Any]) -> None:
    assert claimed(queue, 1) == 1
    queue.update_queue("q", fields)
    assert claimed(queue) == 0
    queue.update_queue("q", {"class": "A"}, ("paused", "maxthreads", "nodes_ignore"))
    assert claimed(queue, 2) == 2


def test_another_process_that_pauses_a_queue_is_heard_by_the_next_claim(queue: SqliteStore, sqlite_file: Any) -> None:
    other = SqliteStore(sqlite_file, queue._clock)
    other.open()
    assert claimed(queue, 1) == 1
    other.update_queue("q", {"paused": {"by": "me"}})
    assert claimed(queue) == 0
    other.update_queue("q", {}, ("paused",))
    assert claimed(queue, 1) == 1
    other.close()


def test_maxthreads_is_what_it_is_now(queue: SqliteStore) -> None:
    queue.update_queue("q", {"maxthreads": 3})
    assert claimed(queue, 9, in_hand=2) == 1
    assert claimed(queue, 9, in_hand=3) == 0 and claimed(queue, 9, in_hand=7) == 0
    queue.update_queue("q", {"maxthreads": 5})
    assert claimed(queue, 9, in_hand=3) == 2


def test_a_node_that_is_to_be_drained_claims_nothing(queue: SqliteStore) -> None:
    document = {"_id": "n1", "session": "s1", "heartbeat": {"queues": [{"queue": "drain"}]}}
    assert queue.put_node(document, replacing=None)
    assert claimed(queue, 1) == 1  # the word alone is no request
    assert queue.request_of_node("n1", "drain", {"by": "me"})
    assert claimed(queue) == 0
    assert queue.request_of_node("n1", "drain", None)
    assert claimed(queue, 1) == 1


def test_a_queue_without_a_document_has_no_gate(sqlite: SqliteStore) -> None:
    push(sqlite, {}, queue="bare")
    assert claimed(sqlite, queue="bare") == 1

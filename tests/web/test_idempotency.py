"""Requests with an Idempotency-Key: carried out once, however often they are sent, and whoever is killed meanwhile."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client, Selection, once
from disbatch_host.client.once import Kept, Once
from helpers import web_process
from helpers.processes import wait_until
from helpers.web import Reply, Web


def keyed(key: str) -> dict[str, Any]:
    return {"headers": {"Idempotency-Key": key}}


def tasks_of(users: int) -> dict[str, Any]:
    return {"tasks": [{"parameters": {"user": f"u{n}"}} for n in range(users)]}


def count(client: Client, queue: str) -> int:
    return client.count(Selection(queue=queue))


def test_the_same_request_is_answered_the_same_and_done_once(server: Web, client: Client) -> None:
    client.queues.create("once", "Greet")
    first = server.post("/queues/once/tasks", tasks_of(3), **keyed("k1"))
    again = server.post("/queues/once/tasks", tasks_of(3), **keyed("k1"))
    assert (first.status, again.status, again.json) == (201, 201, first.json)
    assert again.headers["idempotency-replayed"] == "true" and "idempotency-replayed" not in first.headers
    assert count(client, "once") == 3
    other = server.post("/queues/once/tasks", tasks_of(2), **keyed("k1"))
    assert (other.status, other.code) == (422, "key_reused")
    somebody = server.post("/queues/once/tasks", tasks_of(2), role="operate", **keyed("k1"))
    assert somebody.status == 201, "a key is its sender's own"
    assert count(client, "once") == 5
    single = server.post("/queues/once/tasks", {"parameters": {"user": "ann"}}, **keyed("k2"))
    repeated = server.post("/queues/once/tasks", {"parameters": {"user": "ann"}}, **keyed("k2"))
    assert repeated.json == single.json and repeated.headers["location"] == single.headers["location"]


def test_a_request_in_which_something_was_wrong_may_be_mended(server: Web, client: Client) -> None:
    client.queues.create("mended", "Greet")
    assert server.post("/queues/mended/tasks", {"parameters": {"user": 3}}, **keyed("m")).code == "faults"
    assert server.post("/queues/mended/tasks", {"parameters": {"user": "3"}}, **keyed("m")).status == 201


@pytest.mark.parametrize("key", ["", "x" * 129])
def test_what_cannot_be_a_key_is_refused(server: Web, client: Client, key: str) -> None:
    if client.store.find_queue("keys") is None:
        client.queues.create("keys", "Greet")
    reply = server.post("/queues/keys/tasks", tasks_of(1), **keyed(key))
    assert (reply.status, reply.code) == (400, "query") and "Idempotency-Key" in reply.json["detail"]
    assert count(client, "keys") == 0


def test_many_at_once_create_it_once(server: Web, client: Client) -> None:
    client.queues.create("crowd", "Greet")
    replies: list[Reply] = []

    def send() -> None:
        replies.append(server.post("/queues/crowd/tasks", tasks_of(50), **keyed("crowd")))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert {one.status for one in replies} <= {201, 409}
    assert {one.code for one in replies if one.status == 409} <= {"running"}
    created = [one.json["ids"] for one in replies if one.status == 201]
    assert created and all(one == created[0] for one in created)
    assert count(client, "crowd") == 50


def test_unique_keys_and_places_in_time_are_as_without_a_key(server: Web, client: Client) -> None:
    client.queues.create("both", "Greet")
    some = [{"parameters": {"user": f"u{n}"}, "unique_key": f"k{n % 2}", "priority": n // 2} for n in range(4)]
    first = server.post("/queues/both/tasks", {"tasks": some}, **keyed("both"))
    assert (first.json["created"], first.json["existing"]) == (2, 2)
    assert first.json["ids"][:2] == first.json["ids"][2:]
    assert server.post("/queues/both/tasks", {"tasks": some}, **keyed("both")).json == first.json
    assert count(client, "both") == 2


def test_an_operation_is_begun_once(server: Web, client: Client) -> None:
    client.queues.create("begun", "Greet")
    put_task(client.store, "begun", age_seconds=60)
    tried = server.post("/operations", {"action": "cancel", "filter": {"queue": "begun"}, "dry_run": True}).json
    body = {"action": "cancel", "filter": {"queue": "begun"}, "until": tried["until"], "expect": tried["eligible"]}
    first, again = (server.post("/operations", body, **keyed("op")) for _ in range(2))
    assert (first.status, again.status, first.json["id"]) == (202, 202, again.json["id"])
    assert first.headers["location"] == again.headers["location"]
    found = [one for one in server.get("/operations").json["items"] if one["filter"] == {"queue": "begun"}]
    assert len(found) == 1


def test_a_request_whose_server_was_killed_is_seen_through_by_another(
    living_url: str, client: Client, plugins: Path, tmp_path: Path
) -> None:
    """Its tasks were there, and nobody had been told."""
    client.queues.create("lost_answer", "Greet")
    with web_process.serving(living_url, plugins, tmp_path, dies="before an answer is kept") as first:
        with pytest.raises(OSError):
            first.web.post("/queues/lost_answer/tasks", tasks_of(20), **keyed("lost"))
        first.wait_for_death()
    made = {str(one.id) for one in client.find(Selection(queue="lost_answer"))}
    assert len(made) == 20
    with web_process.serving(living_url, plugins, tmp_path) as second:
        replies: list[Reply] = []

        def is_done() -> bool:
            replies.append(second.web.post("/queues/lost_answer/tasks", tasks_of(20), **keyed("lost")))
            return replies[-1].status != 409

        wait_until(is_done, 30)
        assert all(one.code == "running" for one in replies[:-1]), "as long as the first might be alive"
    assert replies[-1].status == 201 and set(replies[-1].json["ids"]) == made
    assert replies[-1].json["created"] == 20
    assert count(client, "lost_answer") == 20


def test_a_note_is_forgotten_after_a_day_and_not_before(client: Client) -> None:
    store = client.store
    for number, age in enumerate((timedelta(hours=23), timedelta(hours=25))):
        one = Once("ann", f"old{number}", ["POST"], lease_seconds=1)
        assert one.answer(store) is None
        one.ids(store, 2)
        one.finish(store, Kept(status=201, body={"n": number}, headers={}))
        name = next(name for name in store.note_names("web.once.") if name == one._name)
        note = store.read_note(name)
        assert note is not None
        store.write_note(name, {**note, "at": store.now() - age})
    young, old = (Once("ann", f"old{number}", ["POST"], lease_seconds=1) for number in (0, 1))
    assert young.answer(store) == Kept(status=201, body={"n": 0}, headers={})
    assert old.answer(store) is None, "it may be used again"
    gone = sum(once.forget_old(store, shard) for shard in range(256))
    assert gone == 1
    assert young.answer(store) is not None and Once("ann", "old1", ["GET"], lease_seconds=1).answer(store) is None

"""Batches over the API: closed, cancelled, run again and deleted as operations; and their pages."""

from __future__ import annotations

from typing import Any

from disbatch_host.client import Client
from disbatch_protocol.status import Status
from helpers.processes import wait_until
from helpers.steps import walk
from helpers.web import Reply, Web


def made(client: Client, name: str, queue: str = "batches", count: int = 3) -> list[Any]:
    if client.store.find_queue(queue) is None:
        client.queues.create(queue, "Greet")
    return [one.id for one in client.push_many(queue, ({"user": f"u{n}"} for n in range(count)), batch=name)]


def outcomes_of(server: Web, begun: Reply) -> dict[str, int]:
    assert begun.status == 202, begun.text
    found: dict[str, Any] = {}

    def has_ended() -> bool:
        found.update(server.get(begun.headers["location"], base="").json)
        return found["state"] != "running"

    wait_until(has_ended, 60)
    assert found["state"] == "done"
    return dict(found["outcomes"])


def test_a_batch_is_closed_once(server: Web, client: Client) -> None:
    made(client, "closing")
    assert outcomes_of(server, server.post("/batches/closing/close", role="operate")) == {"closed": 1}
    assert server.get("/batches/closing").json["state"] == "closed"
    again = server.post("/batches/closing/close")
    assert (again.status, again.code) == (409, "closed")
    assert server.post("/queues/batches/tasks", {"parameters": {"user": "x"}, "batch": "closing"}).code == "closed"


def test_its_life_from_a_failure_to_its_deletion(server: Web, client: Client) -> None:
    first, second, third = made(client, "living")
    walk(client.store, first, Status.FAILED)
    walk(client.store, second, Status.CONCLUDED)
    assert outcomes_of(server, server.post("/batches/living/retry", {"reason": "again"})) == {"retried": 1}
    assert client.get(first).document["retried"]["why"] == "again"
    unfinished = server.ask("DELETE", "/batches/living")
    assert (unfinished.status, unfinished.code) == (409, "unfinished")
    cancelled = outcomes_of(server, server.post("/batches/living/cancel", {"reason": "enough"}, role="operate"))
    assert cancelled == {"cancelled": 2} and client.get(third).status == Status.CANCELLED
    server.post("/batches/living/close")
    assert server.ask("DELETE", "/batches/living", role="operate").code == "role"
    assert outcomes_of(server, server.ask("DELETE", "/batches/living")) == {"deleted": 3}
    assert server.get("/batches/living").code == "batch"
    assert not list(client.store.find_batches(prefix="living"))


def test_batches_are_listed_page_by_page(server: Web, client: Client) -> None:
    names = [f"page{number}" for number in range(5)]
    for name in names:
        made(client, name, "paged", 1)
    server.post("/batches/page1/close")
    seen: list[str] = []
    path = "/batches?state=open&limit=2"
    while True:
        reply = server.get(path)
        seen += [one["_id"] for one in reply.json["items"] if one["_id"] in names]
        if reply.json["next"] is None:
            break
        assert f"cursor={reply.json['next']}" in reply.headers["link"]
        path = f"/batches?state=open&limit=2&cursor={reply.json['next']}"
    assert seen == ["page4", "page3", "page2", "page0"]
    for wrong in ("cursor=page1&state=open", "cursor=nothing"):
        reply = server.get(f"/batches?{wrong}")
        assert (reply.status, reply.code) == (400, "cursor")
    assert server.get("/batches?state=shut").code == "query"

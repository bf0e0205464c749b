"""Tasks that are pushed over the API: as lines, with masks that come back, with schemas that are slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from disbatch_host.client import Client, Selection
from disbatch_host.client.pushing import ParametersError
from helpers import web
from helpers.nodes import write_plugin
from helpers.web import Web

NDJSON = {"Content-Type": "application/x-ndjson"}


def test_lines_are_the_parameters_of_tasks(server: Web, client: Client) -> None:
    client.queues.create("lines_in", "Greet")
    data = b'{"user": "ann"}\n\n{"user": "bob", "tries": 2}\n{"end": 2}\n'
    reply = server.post("/queues/lines_in/tasks", data, headers=NDJSON)
    assert (reply.status, reply.json["created"]) == (201, 2)
    found = [one.document["parameters"] for one in client.find(Selection(queue="lines_in"))]
    assert found == [{"user": "ann"}, {"user": "bob", "tries": 2}]
    wrong = server.post("/queues/lines_in/tasks", b'{"user": "ann"}\n{"user": 3}\n', headers=NDJSON)
    assert (wrong.status, wrong.json["faults"][0]["pointer"]) == (422, "/tasks/1/parameters/user")
    broken = server.post("/queues/lines_in/tasks", b'{"user": "ann"}\n{"user"', headers=NDJSON)
    assert (broken.status, broken.code) == (400, "body") and "line 2" in broken.json["detail"]
    many = b"".join(b'{"user": "u"}\n' for _ in range(1001))
    assert server.post("/queues/lines_in/tasks", many, headers=NDJSON).code == "body"
    assert server.post("/queues/lines_in/tasks/check", data, headers=NDJSON).json == {"faults": []}


@pytest.mark.parametrize("query", ["", "?check=no"])
def test_a_mask_that_comes_back_is_no_password(server: Web, client: Client, query: str) -> None:
    if client.store.find_queue("masks") is None:
        client.queues.create("masks", "Greet")
    made = client.push("masks", {"user": "ann", "password": "open-sesame"})
    shown = server.get(f"/tasks/{made.id}").json["parameters"]
    before = client.count(Selection(queue="masks"))
    reply = server.post(f"/queues/masks/tasks{query}", {"parameters": shown})
    assert (reply.status, reply.code) == (422, "faults")
    assert [one["pointer"] for one in reply.json["faults"]] == ["/tasks/0/parameters/password"]
    with pytest.raises(ParametersError, match="/password"):
        client.push("masks", shown)
    assert client.count(Selection(queue="masks")) == before
    stars = {"user": "********", "password": "another"}
    assert server.post(f"/queues/masks/tasks{query}", {"parameters": stars}).status == 201, "of a secret alone"


def test_a_check_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """A regular expression of somebody else, and a text made for it."""
    slow = {"type": "object", "properties": {"name": {"type": "string", "pattern": "^(a|a|aa)+$"}}}
    write_plugin(tmp_path, "Slow", "true", parameters=slow)
    url = f"sqlite://{tmp_path}/slow.db"
    with Client.open(url, plugins=[tmp_path], by="me@here", creates=True) as client:
        client.queues.create("slow", "Slow")
        with web.serving(url, [tmp_path]) as server:
            reply = server.post("/queues/slow/tasks", {"parameters": {"name": "a" * 60 + "!"}})
            assert (reply.status, reply.code) == (422, "too_slow"), reply.text
            assert "aaaa" not in reply.text
            assert server.post("/queues/slow/tasks", {"parameters": {"name": "aaa"}}).status == 201
        assert client.count(Selection(queue="slow")) == 1

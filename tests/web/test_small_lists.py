"""Lists that are read whole, in pages, and the columns of a list of tasks: what the API gives to programs that want
little."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.client import Client
from helpers import web
from helpers.web import Web

NAMES = [f"q{number}" for number in range(7)]


@pytest.fixture
def alone(lonely_url: str, lonely_client: Client, plugins: Path) -> Iterator[Web]:
    """A server whose store has these queues, created in another order than that of their names."""
    for name in (*NAMES[3:], *NAMES[:3]):
        lonely_client.queues.create(name, "Greet")
    with web.serving(lonely_url, [plugins]) as server:
        yield server


def ids_of(page: Any) -> list[str]:
    return [one["_id"] for one in page["items"]]


def pages(server: Web, query: str, towards: str = "next") -> list[list[str]]:
    found, cursor = [], ""
    while True:
        page = server.get(f"/queues?{query}{cursor}").json
        found.append(ids_of(page))
        if page[towards] is None:
            return found
        cursor = f"&cursor={page[towards]}"


def test_queues_come_in_pages_and_each_once(alone: Web, lonely_client: Client) -> None:
    whole = alone.get("/queues").json
    assert (ids_of(whole), whole["next"], whole["previous"]) == (NAMES, None, None)
    assert whole["count"] == {"value": 7, "is_exact": True}
    assert pages(alone, "limit=3") == [NAMES[:3], NAMES[3:6], NAMES[6:]]
    created = sorted(NAMES, key=lambda one: (lonely_client.queues.get(one).document["ctime"], one))
    assert [one for page in pages(alone, "limit=2&order=oldest") for one in page] == created
    assert [one for page in pages(alone, "limit=2&order=newest") for one in page] == created[::-1]


def test_the_page_before_a_page_is_the_one_that_was_before_it(alone: Web) -> None:
    first = alone.get("/queues?limit=3").json
    second = alone.get(f"/queues?limit=3&cursor={first['next']}")
    assert re.search(r'rel="next".*rel="prev"', second.headers["link"])
    back = alone.get(f"/queues?limit=3&cursor={second.json['previous']}").json
    assert (ids_of(back), back["previous"]) == (NAMES[:3], None)


def test_a_cursor_is_good_when_its_queue_is_deleted_and_for_its_own_list_alone(
    alone: Web, lonely_client: Client
) -> None:
    first = alone.get("/queues?limit=3").json
    for name in ("q2", "q3"):
        lonely_client.queues.delete(name)
    lonely_client.queues.create("q21", "Greet")
    assert ids_of(alone.get(f"/queues?limit=3&cursor={first['next']}").json) == ["q21", "q4", "q5"]
    refused = alone.get(f"/queues?limit=3&order=newest&cursor={first['next']}")
    assert (refused.status, refused.code) == (400, "cursor")
    for other in ("bm90IG9uZQ", "W10", "NQ", "x"):
        assert alone.get(f"/queues?cursor={other}.{first['next'].rpartition('.')[2]}").code == "cursor"
    assert alone.get("/queues?limit=501").status == alone.get("/queues?order=name").status == 400


def test_a_list_of_tasks_has_the_columns_that_are_asked_for_and_no_secret(alone: Web, lonely_client: Client) -> None:
    rows = [{"user": f"u{number}", "tries": number, "password": "planted-5ecret"} for number in range(3)]
    ids = [str(one.id) for one in lonely_client.push_many("q1", rows)]
    page = alone.get("/tasks?queue=q1&order=oldest&limit=2&columns=p.user,status&columns=tries,p.password,result.size")
    assert page.status == 200, page.text
    expected = {"p.user": "u0", "status": "created", "tries": 0, "p.password": "********", "result.size": None}
    (first, _) = page.json["items"]
    assert (first["_id"], first["columns"]) == (ids[0], expected)
    assert first["_links"]["self"].endswith(ids[0]) and set(first) == {"_id", "columns", "_links"}
    following = alone.get(f"/tasks?queue=q1&order=oldest&limit=2&cursor={page.json['next']}").json
    assert [one["parameters"]["user"] for one in following["items"]] == ["u2"]
    for wrong in ("columns=", "columns=p.user,p.user", "columns=,"):
        refused = alone.get(f"/tasks?queue=q1&{wrong}")
        assert (refused.status, refused.code) == (400, "query"), (wrong, refused.text)


def test_batches_operations_and_imports_come_in_pages_both_ways(alone: Web, lonely_client: Client) -> None:
    batches = [f"b{number}" for number in range(5)]
    for name in batches:
        lonely_client.batches.create(name)
    operations = []
    for name in NAMES[:5]:
        body = {"action": "cancel", "filter": {"queue": name}}
        tried = alone.post("/operations", {**body, "dry_run": True}).json
        begun = alone.post("/operations", {**body, "expect": tried["eligible"], "until": tried["until"]})
        operations.append(begun.json["id"])
    for path, key, created in (("/batches", "_id", batches), ("/operations", "id", operations)):
        whole = alone.get(path).json
        assert {one[key] for one in whole["items"]} == set(created), path
        assert (whole["next"], whole["previous"], whole["count"]) == (None, None, {"value": 5, "is_exact": True})
        newest = [one[key] for one in whole["items"]]
        first = alone.get(f"{path}?limit=2")
        second = alone.get(f"{path}?limit=2&cursor={first.json['next']}")
        back = alone.get(f"{path}?limit=2&cursor={second.json['previous']}").json
        told = [[one[key] for one in page["items"]] for page in (first.json, second.json, back)]
        assert told == [newest[:2], newest[2:4], newest[:2]], path
        assert re.search(r'rel="next"', first.headers["link"]) and re.search(r'rel="prev"', second.headers["link"])
        assert [one[key] for one in alone.get(f"{path}?order=oldest").json["items"]] == newest[::-1]
        assert alone.get(f"{path}?order=oldest&limit=2&cursor={first.json['next']}").code == "cursor"
    assert alone.get("/imports").json == {
        "items": [], "next": None, "previous": None, "count": {"value": 0, "is_exact": True},
    }  # fmt: skip

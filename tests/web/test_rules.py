"""What all routes have in common, rule for rule: forms of values, filters, pages, errors, tags, the log, the queues of
somebody."""

from __future__ import annotations

import logging
import re
import uuid
from pathlib import Path
from typing import Any

import pytest

from client.documents import put_node, put_task
from disbatch_host.client import Client
from disbatch_host.web import api
from disbatch_host.web.problems import Code
from disbatch_protocol.status import Status
from helpers import web
from helpers.browsing import Visitor
from helpers.web import Web

SECRET = "planted-5ecret"
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_LOOKS_LIKE_ONE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:")


def put_some(client: Client) -> dict[str, str]:
    """Tasks that differ in everything that a filter knows, in a queue of their own; and a node."""
    queue = f"rules-{uuid.uuid4().hex[:8]}"
    client.queues.create(queue, "Greet")
    if client.store.get_node("n7") is None:
        put_node(client.store, "n7")
    run = {"plugin": {"class": "Greet", "version": "1.2.0"}, "node": "n7"}
    error = {"code": "exit_3", "message": "no answer", "group": {"text": "exit_3: no answer", "key": "0a1b2c3d"}}
    failed = put_task(
        client.store, queue, age_seconds=7200, status=int(Status.FAILED), run=run, error=error, node="n7",
        parameters={"user": "ann"}, unique_key=f"{queue}-key",
    )  # fmt: skip
    parent = put_task(client.store, queue, age_seconds=7200, status=int(Status.CONCLUDED), parameters={"user": "eve"})
    child = put_task(client.store, queue, age_seconds=7200, parent=str(parent), parameters={"user": "kim"})
    first = client.push(queue, {"user": "bob"}, batch=f"{queue}-batch").id
    after = client.push(queue, {"user": "joe"}, after=[first]).id
    found = {"queue": queue, "failed": failed, "parent": parent, "child": child, "first": first, "after": after}
    return {name: str(one) for name, one in found.items()}


FILTERS = {
    "status=failed": "failed", "status=created,blocked": "first child after", "status=2": "failed",
    "failed=yes": "failed",
    "node=n7": "failed", "since=1h": "first after", "before=1h": "failed parent child", "ended_since=1h": None,
    "ended_before=1h": None, "error=exit_3": "failed", "failure=0a1b2c3d": "failed", "class=Greet": "failed",
    "version=1.2.0": "failed", "unique_key={queue}-key": "failed", "batch={queue}-batch": "first",
    "after={first}": "after",
    "parent={parent}": "child", "id={first}&id={after}": "first after", "where=user=ann": "failed",
    "where=user!=ann&where=user!=bob": "parent child after", "grep=no answer": "failed",
}  # fmt: skip


@pytest.mark.parametrize("words", FILTERS)
def test_a_filter_means_the_same_wherever_it_stands(server: Web, client: Client, words: str) -> None:
    """In lists, counts, files, failures and operations."""
    ids = put_some(client)
    queue, wanted = ids["queue"], FILTERS[words]
    query = words.format(**ids).replace(" ", "+")
    items = server.get(f"/tasks?queue={queue}&{query}").json["items"]
    found = {one["_id"] for one in items}
    if wanted is not None:
        assert found == {ids[name] for name in wanted.split()}
    assert server.get(f"/tasks/count?queue={queue}&{query}").json["value"] == len(found)
    *lines, end = server.get(f"/tasks/export?queue={queue}&{query}").text.splitlines()
    assert len(lines) == len(found) and end == f'{{"end":{len(found)}}}'
    assert server.get(f"/failures?queue={queue}&{query}").status in (200, 400)
    as_object: dict[str, Any] = {"queue": queue}
    for name, _, value in (one.partition("=") for one in words.format(**ids).split("&")):
        if name in ("id", "where"):
            as_object.setdefault(name, []).append(value)
        else:
            as_object[name] = True if name == "failed" else [value] if name == "status" else value
    dry = server.post("/operations", {"action": "retry", "filter": as_object, "dry_run": True})
    assert dry.status in (200, 422), dry.text
    if dry.status == 200:
        assert dry.json["matching"] == len(found)


@pytest.mark.parametrize(
    "query",
    ["status=sleeping", "status=", "node=", "since=soon", "before=-1", "ended_since=x", "failure=xyz", "class=", "id=",
     "where=", "where=user", "batch=no_such", "limit=x", "order=", "cursor=%20", "failed=2"],
)  # fmt: skip
def test_a_value_that_nobody_can_have_is_an_error(server: Web, query: str) -> None:
    for path in ("/tasks", "/tasks/count", "/tasks/export"):
        reply = server.get(f"{path}?{query}")
        assert reply.status in (400, 404), (path, reply.status, reply.text)


def test_values_have_one_form(server: Web, client: Client) -> None:
    """Moments in UTC with milliseconds, ids as text, and links that lead somewhere."""
    ids = put_some(client)
    queue = ids["queue"]
    for path in (
        f"/tasks/{ids['failed']}", f"/tasks/{ids['first']}", f"/tasks?queue={queue}", f"/queues/{queue}", "/queues",
        f"/batches/{queue}-batch", "/nodes/n7", "/overview", f"/failures?queue={queue}",
    ):  # fmt: skip
        reply = server.get(path)
        assert reply.status == 200 and reply.headers["content-type"] == "application/json", path
        for text in texts_in(reply.json):
            assert not _LOOKS_LIKE_ONE.match(text) or MOMENT.fullmatch(text), (path, text)
    task = server.get(f"/tasks/{ids['child']}").json
    assert (task["_id"], task["parent"]) == (ids["child"], ids["parent"])
    for link in (*task["_links"].values(), *server.get(f"/queues/{queue}").json["_links"].values()):
        assert server.get(link, base="").status in (200, 405), link


def texts_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inside for text in texts_in(one)]


def test_a_cursor_is_of_its_list(server: Web, client: Client) -> None:
    queue = put_some(client)["queue"]
    first = server.get(f"/tasks?queue={queue}&limit=2").json
    assert (len(first["items"]), first["previous"], first["looked_at"]["is_all"]) == (2, None, True)
    second = server.get(f"/tasks?queue={queue}&limit=2&cursor={first['next']}").json
    assert second["previous"] is not None
    back = server.get(f"/tasks?queue={queue}&limit=2&cursor={second['previous']}").json
    assert [one["_id"] for one in back["items"]] == [one["_id"] for one in first["items"]]
    for other in (f"queue={queue}&status=failed", f"queue={queue}&order=oldest", ""):
        reply = server.get(f"/tasks?{other}&limit=2&cursor={first['next']}")
        assert (reply.status, reply.code) == (400, "cursor"), other
    oldest = server.get(f"/tasks?queue={queue}&order=oldest&limit=500").json["items"]
    newest = server.get(f"/tasks?queue={queue}&limit=500").json["items"]
    assert [one["_id"] for one in oldest] == [one["_id"] for one in newest][::-1]


def test_an_error_has_all_of_its_members_and_nothing_that_may_be_secret(server: Web, client: Client) -> None:
    if client.store.find_queue("errors") is None:
        client.queues.create("errors", "Greet")
    faulty = {"parameters": {"user": f"{SECRET} and far too long", "password": [SECRET], "tries": "many"}}
    reply = server.post("/queues/errors/tasks", faulty)
    assert reply.status == 422 and SECRET not in reply.text
    problem = reply.json
    assert problem["type"] == "urn:disbatch:problem:faults" and problem["status"] == 422
    assert (
        problem["title"]
        and problem["detail"]
        and re.fullmatch(r"urn:disbatch:request:[0-9a-f]{16}", problem["instance"])
    )
    assert {one["pointer"] for one in problem["faults"]} == {
        f"/tasks/0/parameters/{name}" for name in ("user", "password", "tries")
    }
    for path, body in (
        ("/queues/errors/tasks", [SECRET]),
        ("/queues/errors/tasks", {"parameters": SECRET}),
        ("/operations", {"action": SECRET}),
        ("/queues", {"_id": "x", "class": "Greet", "rate": {"a": SECRET}}),
    ):
        refused = server.post(path, body)
        assert refused.status in (400, 422) and SECRET not in refused.text, (path, refused.text)


def test_every_code_of_the_list_has_a_test() -> None:
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [code.word for code in Code if f'"{code.word}"' not in sources] == []


def test_codes_that_come_of_what_others_do(server: Web, client: Client) -> None:
    """One request each for those that no other test asks for."""
    if client.store.find_queue("codes") is None:
        client.queues.create("codes", "Greet")
    task = client.push("codes", {"user": "ann"}, batch="codes-batch").id
    reply = server.post(f"/tasks/{task}/release")
    assert (reply.status, reply.code) == (409, "not_blocked")
    client.cancel(task)
    reply = server.ask("DELETE", f"/tasks/{task}")
    assert (reply.status, reply.code) == (409, "in_batch")
    awaited = client.push("codes", {"user": "bob"}).id
    client.push("codes", {"user": "joe"}, after=[awaited])
    client.cancel(awaited)
    reply = server.ask("DELETE", f"/tasks/{awaited}")
    assert (reply.status, reply.code) == (409, "awaited")
    client.store.put_node({"_id": "perl", "node": "perl", "maxthreads": 3}, replacing=None)
    reply = server.post("/nodes/perl/drain")
    assert (reply.status, reply.code) == (409, "foreign")


@pytest.mark.parametrize("route", [one for one in api.ROUTES if one.method == "GET"], ids=lambda one: one.name)
def test_documents_and_lists_have_a_tag(server: Web, client: Client, route: Any) -> None:
    ids = put_some(client)
    names = {"q": ids["queue"], "id": ids["first"], "b": f"{ids['queue']}-batch", "n": "n7", "class": "Greet"}
    places = re.findall(r"\{(\w+)\}", route.path)
    if not set(places) <= names.keys() or "events" in route.path or route.path in ("/tasks/export", "/", "/me"):
        return  # of what comes and goes, and of what is no document
    if route.path.endswith(("/export", "/bundle")):
        return
    path = route.path.format(**names)
    tag = server.get(path).headers.get("etag")
    assert tag is not None and re.fullmatch(r'"[^"]+"', tag), path
    again = server.get(path, headers={"If-None-Match": f'"other", W/{tag}'})
    if again.headers["etag"] == tag and route.path != "/queues/{q}":  # its tag is of the document, not of its counts
        assert (again.status, again.data) == (304, b"")


def test_every_change_is_a_line_of_the_log(server: Web, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Who, from where, what, of which, how many, what came of it; and no value of a parameter."""
    if client.store.find_queue("logged") is None:
        client.queues.create("logged", "Greet")
    visitor = Visitor(server)
    visitor.sign_in("operate")
    with caplog.at_level(logging.DEBUG):
        server.post(
            "/queues/logged/tasks", {"tasks": [{"parameters": {"user": "ann", "password": SECRET}}] * 3}, role="operate"
        )
        selection = {"queue": "logged", "where": [f"password={SECRET}"]}
        dry = {"action": "cancel", "filter": selection, "dry_run": True}
        seen = server.post("/operations", dry).json
        server.post(
            "/operations", {**dry, "dry_run": False, "until": seen["until"], "expect": seen["eligible"], "reason": "no"}
        )
        server.post("/queues/logged/pause", {"reason": "x"}, role="read")
        server.post("/queues/none/pause", {}, role=None)
        visitor.send("/queues/logged/push", "/push", **{"/user": "bob", "/password": SECRET})
    lines = [one.getMessage() for one in caplog.records if one.name.startswith("disbatch_host")]
    for wanted in (
        r"operate from 127\.0\.0\.1: POST /queues/\{q\}/tasks \(q 'logged'\): 3 created, 0 existing -> 201 ",
        r"admin from 127\.0\.0\.1: POST /operations: operation \w+: cancel 3 tasks of .*logged.*where.*-> 202",
        r"read from 127\.0\.0\.1: POST /queues/\{q\}/pause \(q 'logged'\) -> 403 ",
        r"nobody from 127\.0\.0\.1: POST /queues/\{q\}/pause \(q 'none'\) -> 401 ",
        r"operate from 127\.0\.0\.1: POST /queues/\{q\}/push \(q 'logged'\): 1 created, 0 existing -> 303 ",
    ):
        assert [one for one in lines if re.fullmatch(f"{wanted}.*", one)], (wanted, lines)
    assert not [one for one in lines if SECRET in one or "dsb_" in one]


def test_one_export_and_one_search_of_a_person_at_a_time(server: Web, client: Client) -> None:
    import http.client

    client.queues.create("ones", "Greet")
    text = "x" * 400_000
    for _ in range(40):
        put_task(client.store, "ones", parameters={"user": text})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(
        "GET", f"{server.base}/tasks/export?queue=ones", headers={"Authorization": f"Bearer {server.tokens['read']}"}
    )
    response = connection.getresponse()
    assert response.status == 200 and response.read(10)
    second = server.get("/tasks/export?queue=ones", role="read")
    assert (second.status, second.code, second.headers["retry-after"]) == (429, "too_many", "1")
    assert server.get("/tasks/count?queue=ones", role="read").status == 200
    response.read()
    connection.close()
    assert server.get("/tasks/export?queue=ones&limit=1", role="read").status in (200, 400)


def test_a_token_of_one_queue_meets_no_other_by_any_route(living_url: str, client: Client, plugins: Path) -> None:
    """Every GET of the table; what it may not see is not there, and is counted nowhere."""
    for name in ("own", "hidden-queue"):
        if client.store.find_queue(name) is None:
            client.queues.create(name, "Greet" if name == "own" else "Hidden::Class")
    group = {"text": "hidden-text", "key": "0f0f0f0f"}
    error = {"code": "hidden-code", "message": "hidden-error", "group": group}
    theirs = put_task(client.store, "hidden-queue", status=2, parameters={"user": "hidden-user"}, error=error)
    client.push("own", {"user": "mine"})
    put_node(client.store, "n8", heartbeat={"pid": 7, "queues": ["hidden-queue"], "running": [str(theirs)]})
    with web.serving(living_url, [plugins], bound_to={"bound": ["own"]}) as server:
        names = {
            "q": "hidden-queue",
            "id": str(theirs),
            "b": "none",
            "n": "n8",
            "class": "Hidden::Class",
            "stream": "stdout",
            "o": "none",
            "u": "none",
            "i": "none",
        }
        for route in (one for one in api.ROUTES if one.method == "GET"):
            for path in {route.path.format(**names).replace("hidden-queue", one) for one in ("hidden-queue", "own")}:
                reply = server.get(path, role="bound")
                assert reply.status < 500, (path, reply.text)
                said = reply.text.replace(str(theirs), "") if reply.status == 404 else reply.text
                for word in ("hidden-user", "hidden-code", "hidden-error", "hidden-text"):
                    assert word not in said, (path, word)
                assert reply.status >= 400 or "hidden-queue" not in said, path
        overview = server.get("/overview", role="bound").json
        assert [one["queue"] for one in overview["queues"]] == ["own"]
        assert server.get("/tasks/count", role="bound").json["value"] == client.count_within(_of("own"), None).value
        for path in (f"/tasks/{theirs}/retry", "/queues/hidden-queue/pause", "/queues/hidden-queue/tasks"):
            body = {"parameters": {"user": "x"}} if path.endswith("tasks") else {}
            assert server.post(path, body, role="bound").status == 404, path


def _of(queue: str) -> Any:
    from disbatch_host.client import Selection

    return Selection(queue=queue)

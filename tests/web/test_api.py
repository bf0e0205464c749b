"""The REST API as a whole: what every route keeps to, by its own table."""

from __future__ import annotations

import re
from typing import Any

import pytest

from disbatch_host.client import Client
from disbatch_host.web import api
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route
from disbatch_protocol.status import Status
from helpers import web
from helpers.web import ROLES, Web

PLACES = re.compile(r"\{\w+\}")
BODIES: dict[str, Any] = {
    "POST /queues": {"_id": "of_roles", "class": "Greet"},
    "POST /queues/{q}/tasks": {"parameters": {"user": "matt"}},
    "POST /queues/{q}/tasks/check": {"parameters": {"user": "matt"}},
    "PATCH /queues/{q}": {"maxthreads": 1},
    "POST /operations": {"action": "retry", "filter": {"queue": "nothing"}, "dry_run": True},
    "POST /imports": {"upload": "nothing", "queue": "nothing"},
}


def path_of(route: Route) -> str:
    """With names that nothing has."""
    return PLACES.sub("nothing", route.path)


def by_name(route: Route) -> str:
    return route.name


@pytest.mark.parametrize("route", api.ROUTES, ids=by_name)
def test_a_route_is_for_its_role_and_those_above(server: Web, route: Route) -> None:
    for role in (None, *ROLES):
        has = 0 if role is None else Role[role.upper()]
        reply = server.ask(route.method, path_of(route), BODIES.get(route.name), role=role)
        if route.role is not None and has < route.role:
            assert (reply.status, reply.code) == ((401, "unauthenticated") if role is None else (403, "role"))
        else:
            assert reply.status not in (401, 403, 405, 500, 501), (role, reply)


@pytest.mark.parametrize("route", api.ROUTES, ids=by_name)
def test_what_a_route_does_not_know_is_refused(server: Web, route: Route) -> None:
    reply = server.ask(route.method, f"{path_of(route)}?limitt=3", BODIES.get(route.name))
    assert (reply.status, reply.code) == (400, "query") and "limitt" in reply.json["detail"]
    if route.body is not None:
        given = {**(BODIES.get(route.name) or {}), "raeson": "x"}
        reply = server.ask(route.method, path_of(route), given)
        assert (reply.status, reply.code) == (400, "body")
        assert reply.json["faults"][0]["pointer"] == "/raeson", reply.json
        reply = server.ask(route.method, path_of(route), b"{", headers={"Content-Type": "application/json"})
        assert (reply.status, reply.code) == (400, "body")
        reply = server.ask(route.method, path_of(route), b"a=1", headers={"Content-Type": "text/csv"})
        assert (reply.status, reply.code) == (415, "media_type")


@pytest.mark.parametrize("route", [one for one in api.ROUTES if PLACES.search(one.path)], ids=by_name)
def test_a_name_that_nothing_has_is_told_by_what_it_is_of(server: Web, route: Route) -> None:
    reply = server.ask(route.method, path_of(route), BODIES.get(route.name))
    assert (reply.status, reply.code) == (404, route.about.word)
    assert "'nothing'" in reply.json["detail"] or "nothing" in reply.json["detail"]


def test_the_description_has_every_route_and_every_schema(server: Web) -> None:
    reply = server.get("/openapi.json")
    document = reply.json
    assert document["openapi"] == "3.1.0" and document["servers"] == [{"url": server.base}]
    assert {(path, method.upper()) for path, one in document["paths"].items() for method in one} == {
        (route.path, route.method) for route in api.ROUTES
    }
    once = document["paths"]["/operations"]["post"]["parameters"]
    assert [(one["name"], one["in"]) for one in once] == [("Idempotency-Key", "header")]
    assert "text/csv" in document["paths"]["/uploads"]["post"]["requestBody"]["content"]
    assert "application/x-ndjson" in document["paths"]["/queues/{q}/tasks"]["post"]["requestBody"]["content"]
    references = re.findall(r'"\$ref":"(#/components/schemas/[^/"]+)', reply.text)
    assert references and {one.rpartition("/")[2] for one in references} <= document["components"]["schemas"].keys()
    assert server.get("/openapi.json", headers={"If-None-Match": reply.headers["etag"]}).status == 304


def test_every_address_of_the_root_is_there(server: Web) -> None:
    links = server.get("/", role=None).json["_links"]
    for name, link in links.items():
        assert server.get(link, base="").status == 200, name


def test_each_answer_forbids_what_a_page_must_not_do(server: Web) -> None:
    for reply in (server.get("/"), server.get("/tasks", role=None), server.get("/nothing"), server.get("/tasks")):
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer" and reply.headers["cache-control"] == "no-store"
        assert "server" not in reply.headers


def test_a_host_that_is_not_this_server_is_turned_away(server: Web) -> None:
    for host in ("evil.example", "evil.example:8780", "127.0.0.1.evil.example", ""):
        reply = server.get("/", headers={"Host": host})
        assert (reply.status, reply.code) == (421, "host")
    for host in ("localhost", "localhost:1", "127.0.0.1:80", "[::1]:80"):
        assert server.get("/", headers={"Host": host}).status == 200


def test_lists_go_on_where_they_ended(server: Web, client: Client) -> None:
    client.queues.create("pages", "Greet")
    made = [str(one.id) for one in client.push_many("pages", ({"user": f"u{n}"} for n in range(23)))]
    seen: list[str] = []
    link = "/tasks?queue=pages&limit=5"
    sizes = []
    while True:
        reply = server.get(link)
        assert reply.status == 200 and reply.json["count"] == {"value": 23, "is_exact": True}
        sizes.append(len(reply.json["items"]))
        seen += [one["_id"] for one in reply.json["items"]]
        links = dict(re.findall(r'<([^>]+)>; rel="(\w+)"', reply.headers.get("link", "")))
        following = next((url for url, rel in links.items() if rel == "next"), None)
        assert (following is None) == (reply.json["next"] is None)
        if following is None:
            break
        link = following.removeprefix(server.base)
    assert seen == made[::-1] and sizes == [5, 5, 5, 5, 3]
    reply = server.get("/tasks?queue=pages&cursor=nonsense!")
    assert (reply.status, reply.code) == (400, "cursor")


@pytest.mark.parametrize(
    "query",
    [
        "queue=filters&where=user=u3", "queue=filters&status=created", "queue=filters&status=!x", "since=yesterdayy",
        "failure=12", "queue=filters&limit=0", "limit=501", "order=up", "queue=no_such_queue", "failed=perhaps",
        "queue=filters&queue=filters", "queue=", "where=user", "failed=yes&status=created",
    ],
)  # fmt: skip
def test_a_filter_finds_what_it_says_or_is_refused_in_words(server: Web, client: Client, query: str) -> None:
    if client.store.find_queue("filters") is None:
        client.queues.create("filters", "Greet")
        client.push_many("filters", ({"user": f"u{n}"} for n in range(5)))
    reply = server.get(f"/tasks?{query}")
    found = {"queue=filters&where=user=u3": 1, "queue=filters&status=created": 5}
    if query in found:
        assert (reply.status, len(reply.json["items"])) == (200, found[query])
    elif query == "queue=no_such_queue":
        assert (reply.status, reply.code) == (404, "queue")
    else:
        assert (reply.status, reply.code) == (400, "query"), reply.text


def test_secrets_are_in_no_answer(server: Web, client: Client) -> None:
    client.queues.create("secrets", "Greet")
    task = client.push("secrets", {"user": "ann", "password": "open-sesame"})
    for path in ("/tasks?queue=secrets", f"/tasks/{task.id}", "/tasks?where=password=open-sesame"):
        reply = server.get(path)
        assert reply.status == 200 and "open-sesame" not in reply.text.replace("where=password=open-sesame", "")
    shown = server.get(f"/tasks/{task.id}").json
    assert shown["parameters"] == {"user": "ann", "password": "********"}
    assert "claim" not in shown and shown["actions"] == ["cancel"] and shown["why"]["code"] == "no_node"


def test_somebody_bound_to_a_queue_sees_that_queue_alone(server: Web, client: Client) -> None:
    for name in ("mail", "other"):
        client.queues.create(name, "Greet")
    mine, other = client.push("mail", {"user": "mine"}), client.push("other", {"user": "theirs"})
    bound = {"role": "mail_only"}
    assert [one["_id"] for one in server.get("/queues", **bound).json["items"]] == ["mail"]
    assert [one["_id"] for one in server.get("/tasks", **bound).json["items"]] == [str(mine.id)]
    assert server.get("/tasks/count", **bound).json["value"] == 1
    for path, code in (
        (f"/tasks/{other.id}", "task"), ("/queues/other", "queue"), ("/tasks?queue=other", "queue"),
        ("/failures?queue=other", "queue"),
    ):  # fmt: skip
        reply = server.get(path, **bound)
        assert (reply.status, reply.code) == (404, code)
        assert "theirs" not in reply.text
    for path in (f"/tasks/{other.id}/cancel", "/queues/other/pause", "/queues/other/tasks"):
        reply = server.post(path, {"parameters": {"user": "x"}} if path.endswith("tasks") else {}, **bound)
        assert reply.status == 404
    assert server.post(f"/tasks/{mine.id}/cancel", {"reason": "mine"}, **bound).json["outcome"] == "cancelled"
    assert client.get(other.id).status == Status.CREATED


def test_a_task_is_cancelled_and_retried_and_deleted(server: Web, client: Client) -> None:
    client.queues.create("changes", "Greet")
    task = client.push("changes", {"user": "ann"}).id
    reply = server.post(f"/tasks/{task}/retry")
    assert (reply.status, reply.code) == (409, "not_ended")
    reply = server.post(f"/tasks/{task}/cancel", {"reason": "by mistake"}, role="operate")
    assert (reply.status, reply.json["outcome"]) == (200, "cancelled")
    assert "by mistake" in str(reply.json["task"]["story"]) and "operate@web" in str(reply.json["task"]["story"])
    assert reply.json["task"]["actions"] == ["retry", "delete"]
    reply = server.post(f"/tasks/{task}/cancel")
    assert (reply.status, reply.code) == (409, "ended")
    assert server.post(f"/tasks/{task}/retry").json["task"]["status"] == Status.CREATED
    assert server.ask("DELETE", f"/tasks/{task}").code == "not_ended"
    server.post(f"/tasks/{task}/cancel")
    assert server.ask("DELETE", f"/tasks/{task}").status == 204
    assert server.get(f"/tasks/{task}").code == "task"


def test_a_queue_is_changed_by_whoever_has_seen_it_as_it_is(server: Web, client: Client) -> None:
    reply = server.post("/queues", {"_id": "guarded", "class": "Greet", "maxthreads": 3})
    assert (reply.status, reply.headers["location"]) == (201, f"{server.base}/queues/guarded")
    assert server.post("/queues", {"_id": "guarded", "class": "Greet"}).code == "exists"
    tag = server.get("/queues/guarded").headers["etag"]
    assert tag == reply.headers["etag"]
    assert server.ask("PATCH", "/queues/guarded", {"maxthreads": 4}).code == "if_match"
    changed = server.ask("PATCH", "/queues/guarded", {"maxthreads": 4}, headers={"If-Match": tag})
    assert (changed.status, changed.json["maxthreads"]) == (200, 4)
    protected = {"keep_attempts": 5, "pause_on_failures": "50/10m"}
    changed = server.ask("PATCH", "/queues/guarded", protected, headers={"If-Match": changed.headers["etag"]})
    assert changed.status == 200 and protected.items() <= changed.json.items()
    stale = server.ask("PATCH", "/queues/guarded", {"maxthreads": 5}, headers={"If-Match": tag})
    assert (stale.status, stale.code, stale.json["document"]["maxthreads"]) == (412, "stale", 4)
    again = {"If-Match": stale.headers["etag"]}
    unset = server.ask("PATCH", "/queues/guarded", {"maxthreads": None}, headers=again)
    assert unset.status == 200 and "maxthreads" not in unset.json
    wrong_ones: dict[str, Any] = {"rate": "fast", "pause_on_failures": "often", "keep_attempts": 51}
    for name, value in wrong_ones.items():
        wrong = server.ask("PATCH", "/queues/guarded", {name: value}, headers={"If-Match": unset.headers["etag"]})
        assert (wrong.status, wrong.code) == ((400, "body") if name == "keep_attempts" else (422, "faults"))
    assert server.post("/queues/guarded/pause", {"reason": "upgrade"}).json["paused"]["why"] == "upgrade"
    assert "paused" not in server.post("/queues/guarded/resume").json
    client.push("guarded", {"user": "ann"})
    tag = server.get("/queues/guarded").headers["etag"]
    assert server.ask("DELETE", "/queues/guarded", headers={"If-Match": tag}).code == "has_tasks"
    assert server.ask("DELETE", "/queues/guarded?tasks=keep", headers={"If-Match": tag}).status == 204
    gone = server.get("/queues/guarded").json
    assert (gone["exists"], gone["counts"]["waiting"]) == (False, 1)


def test_tasks_are_pushed_together_or_not_at_all(server: Web, client: Client) -> None:
    client.queues.create("pushed", "Greet")
    some = [{"parameters": {"user": f"u{n}"}, "unique_key": f"k{n % 3}", "priority": 1} for n in range(4)]
    reply = server.post("/queues/pushed/tasks", {"tasks": some})
    assert (reply.status, reply.json["created"], reply.json["existing"]) == (201, 3, 1)
    assert reply.json["ids"][0] == reply.json["ids"][3]
    assert client.get(reply.json["ids"][1]).document["priority"] == 1
    wrong = [{"parameters": {"user": "fits"}}, {"parameters": {"usr": "x"}}, {"parameters": {"user": 3}}]
    reply = server.post("/queues/pushed/tasks", {"tasks": wrong})
    assert (reply.status, reply.code) == (422, "faults")
    pointers = {one["pointer"] for one in reply.json["faults"]}
    assert "/tasks/2/parameters/user" in pointers and not any(one.startswith("/tasks/0") for one in pointers)
    assert server.post("/queues/pushed/tasks/check", {"tasks": wrong}).json["faults"] == reply.json["faults"]
    assert client.count_within(client_selection("pushed"), None).value == 3
    assert server.post("/queues/pushed/tasks?check=no", {"parameters": {}}, role="operate").code == "role"
    assert server.post("/queues/pushed/tasks?check=no", {"parameters": {}}).status == 201


def client_selection(queue: str) -> Any:
    from disbatch_host.client import Selection

    return Selection(queue=queue)


def test_a_browser_of_another_site_changes_nothing(server: Web, client: Client) -> None:
    """With a session, which a browser sends by itself; a token in a header is no browser's own doing."""
    client.queues.create("sites", "Greet")
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
    ):
        assert server.post("/queues/sites/pause", {}, headers=headers).status == 200, "a token is enough"
        assert server.post("/queues/sites/resume", {}, headers=headers).status == 200


def test_too_large_a_body_is_not_read(server: Web) -> None:
    reply = server.post("/queues/none/pause", {"reason": "x" * 2**20})
    assert (reply.status, reply.code) == (413, "too_large")


@pytest.mark.parametrize("living_url", ["sqlite"], indirect=True, scope="module")
def test_more_changes_than_a_second_allows_are_refused(living_url: str, client: Client) -> None:
    with web.serving(living_url, changes_per_second=2) as server:
        replies = [server.post("/queues/none/resume", role="operate") for _ in range(40)]
        refused = [one for one in replies if one.status == 429]
        assert refused and refused[0].headers["retry-after"] == "1" and {one.status for one in replies} == {404, 429}
        assert server.get("/queues", role="operate").status == 200, "reading is no change"
        assert server.post("/queues/none/resume", role="admin").status == 404, "of somebody else"

"""What a person reads where something is refused: each status as a page, in words, with what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client, Selection
from disbatch_host.errors import ChangedMeanwhileError
from disbatch_host.web.pool import ClientPool
from disbatch_host.web.problems import problem_of
from helpers import web
from helpers.browsing import Form, Page, Visitor
from helpers.nodes import write_plugin
from helpers.processes import wait_until
from helpers.web import Reply, Web


def is_refusal(reply: Reply, status: int, *words: str) -> None:
    """A whole page, that says what and which request, and nothing of this program's inside."""
    assert reply.status == status, (reply.status, reply.text[-600:])
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(reply.text)
    assert page.tags.count("h1") == 1 and page.tags.count("html") == 1 and page.inline == []
    assert 'role="alert"' in reply.text and "Traceback" not in reply.text
    for one in words:
        assert one in reply.text, (one, reply.text[-800:])


@pytest.fixture(scope="module")
def admin(server: Web, client: Client) -> Iterator[Visitor]:
    client.queues.create("mail", "Greet")
    visitor = Visitor(server)
    assert visitor.sign_in("admin").status == 200
    yield visitor


def test_401_leads_to_signing_in_and_back(server: Web, admin: Visitor) -> None:
    asked = Visitor(server).get("/queues/mail?live=off")
    assert (asked.status, asked.headers["location"]) == (303, "/login?next=%2Fqueues%2Fmail%3Flive%3Doff")
    is_refusal(Visitor(server).send("/login?next=/queues/mail", "/login", token="dsb_x"), 401, "not known here")
    wrong = Page(Visitor(server).send("/login?next=/queues/mail", "/login", token="dsb_x").text)
    assert ("next", "/queues/mail") in wrong.forms[-1].fields, "the next try leads there as well"


def test_403_of_a_role_says_which_is_needed(server: Web, admin: Visitor, client: Client) -> None:
    reader = Visitor(server)
    reader.sign_in("read")
    task = client.push("mail", {"user": "ann"}).id
    for path in (f"/tasks/{task}/cancel", "/queues/mail/pause", "/tasks/act", "/operations"):
        is_refusal(reader.post(path, [("action", "cancel"), ("id", str(task))]), 403, "operate", "request ")
    for path in ("/queues/mail/push", "/queues/new", "/queues/mail/change"):
        is_refusal(reader.get(path), 403, "has the role read")
    assert client.get(task).status == -2


def test_403_of_another_site(admin: Visitor) -> None:
    is_refusal(admin.post("/queues/mail/pause", [], {"Sec-Fetch-Site": "cross-site"}), 403, "page of this server")


@pytest.mark.parametrize(
    ("path", "near"),
    [("/taks", "/tasks"), ("/quues/mail", "/queues"), ("/queues/mial", ""), ("/tasks/none", ""),
     ("/nodes/none", ""), ("/batches/none", ""), ("/plugins/None", ""), ("/static/none.js", ""),
     ("/operations/0123456789abcdef01234567", "")],
)  # fmt: skip
def test_404_names_what_is_like_it(admin: Visitor, path: str, near: str) -> None:
    reply = admin.get(path)
    is_refusal(reply, 404, "request ")
    assert not near or f'href="{near}"' in reply.text
    if path == "/queues/mial":
        assert "mail" in reply.text


def test_405_says_what_can_be_used(server: Web, admin: Visitor) -> None:
    is_refusal(admin.post("/queues", []), 405, "can be used")
    assert server.ask("PUT", "/queues").code == "method"


def test_409_says_why_not_now(admin: Visitor, client: Client) -> None:
    waiting = client.push("mail", {"user": "ann"}).id
    is_refusal(admin.post(f"/tasks/{waiting}/retry", []), 409, "has not ended")
    client.cancel(waiting)
    is_refusal(admin.post(f"/tasks/{waiting}/cancel", []), 409, "ended")
    is_refusal(admin.post("/queues/new", [("_id", "mail"), ("class", "Greet")]), 409, "exists already")
    first, again = client.push("mail", {"user": "ann"}, unique_key="k").id, "k"
    client.cancel(first)
    client.push("mail", {"user": "bob"}, unique_key=again)
    is_refusal(admin.post(f"/tasks/{first}/retry", []), 409, "unique key")


def test_412_shows_what_it_is_now(admin: Visitor, client: Client) -> None:
    client.queues.create("stale", "Greet", maxthreads=1)
    (form,) = [one for one in admin.page("/queues/stale/change").forms if one.action.endswith("/change")]
    client.queues.set("stale", maxthreads=7)
    given = [(name, "5" if name == "maxthreads" else value) for name, value in form.fields]
    is_refusal(admin.post(form.action, given), 412, "yours", "now", "before")


def test_413_says_how_much_may_be_sent(admin: Visitor) -> None:
    is_refusal(admin.post("/queues/mail/pause", [("reason", "x" * 2**20)]), 413, "1,048,576")


def test_a_body_that_is_no_form_is_refused(admin: Visitor, server: Web) -> None:
    cookie = "; ".join(f"{name}={value}" for name, value in admin.cookies.items())
    headers = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}
    for kind, body, status in (
        ("application/json", b"{}", 415), ("application/x-www-form-urlencoded", b"reason=\xff", 400),
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(20_001)), 400),
    ):  # fmt: skip
        reply = server.post("/queues/mail/pause", body, base="", role=None, headers={**headers, "Content-Type": kind})
        is_refusal(reply, status, "expected a form")


def test_421_is_a_page_that_knows_nobody(server: Web, admin: Visitor) -> None:
    cookie = "; ".join(f"{name}={value}" for name, value in admin.cookies.items())
    reply = server.get("/queues", base="", role=None, headers={"Cookie": cookie, "Host": "evil.example"})
    is_refusal(reply, 421, "--public-url", "evil.example")
    assert "admin" not in reply.text


def test_422_of_a_form_is_at_its_fields(admin: Visitor) -> None:
    is_refusal(admin.send("/queues/mail/push", "/push", **{"/user": "x" * 30}), 422, 'href="#f/user"')


def test_429_says_when_to_try_again(living_url: str, client: Client, admin: Visitor) -> None:
    with web.serving(living_url, changes_per_second=1) as server:
        visitor = Visitor(server)
        visitor.sign_in("admin")
        replies = [visitor.post("/queues/mail/resume", []) for _ in range(20)]
        refused = [one for one in replies if one.status == 429]
        assert refused and refused[0].headers["retry-after"] == "1"
        is_refusal(refused[0], 429, "changes in a second")


def test_503_keeps_the_way_back(tmp_path: Path) -> None:
    path = tmp_path / "away.db"
    Client.open(f"sqlite://{path}", by="me@here", creates=True).close()
    with web.serving(f"sqlite://{path}") as server:
        visitor = Visitor(server)
        visitor.sign_in("read")
        away = tmp_path / "elsewhere"
        away.mkdir()
        for one in tmp_path.glob("away.db*"):
            one.rename(away / one.name)
        wait_until(lambda: visitor.get("/queues").status == 503, 30, "it is still answered")
        reply = visitor.get("/queues?live=off")
        is_refusal(reply, 503, "Try again", 'href="/queues?live=off"')
        assert reply.headers["retry-after"] == "5"
        assert visitor.get("/login").status == 303, "nobody has to sign in again"
        assert server.get("/healthz", base="", role=None).status == 503
        for one in away.iterdir():
            one.rename(tmp_path / one.name)
        wait_until(lambda: visitor.get("/queues").status == 200, 30, "it does not come back")


def test_somebody_bound_to_a_queue_meets_nothing_of_others(server: Web, admin: Visitor, client: Client) -> None:
    """On the pages; every list, form and search."""
    client.queues.create("other", "Greet", description="theirs alone")
    theirs = str(client.push("other", {"user": "theirs"}).id)
    put_task(client.store, "other", status=2, error={"code": "exit_3", "message": "theirs broke"})
    visitor = Visitor(server)
    assert visitor.sign_in("mail_only").status == 200
    for address in (
        "/",
        "/queues",
        "/tasks",
        "/failures",
        "/nodes",
        "/plugins",
        "/push",
        "/operations",
        "/tasks?status=failed",
    ):
        reply = visitor.follow(visitor.get(address))
        assert reply.status == 200 and "theirs" not in reply.text and theirs not in reply.text, address
    for address in (
        "/queues/other",
        "/queues/other/push",
        "/queues/other/change",
        f"/tasks/{theirs}",
        "/tasks?queue=other",
    ):
        reply = visitor.get(address)
        assert reply.status in (403, 404) and "theirs broke" not in reply.text, address
    assert theirs not in (visitor.get(f"/search?q={theirs[:8]}").headers.get("location") or "")
    for path in ("/queues/other/pause", f"/tasks/{theirs}/cancel"):
        assert visitor.post(path, []).status == 404, path
    assert client.queues.get("other").paused is None and client.get(client.store.parse_id(theirs)).status == -2
    assert visitor.send("/queues/mail/push", "/push", **{"/user": "mine"}).status == 200


def test_every_form_of_a_reader_only_changes_how_it_looks(server: Web, admin: Visitor, client: Client) -> None:
    """Actions are absent, not grey; on every page that has a list or a thing."""
    put_task(client.store, "mail", status=2, error={"code": "exit_3", "message": "it broke"})
    task = client.push("mail", {"user": "ann"}).id
    reader = Visitor(server)
    reader.sign_in("read")

    def actions(page: Page) -> list[Form]:
        return [one for one in page.forms if one.method == "POST" and one.action not in ("/look", "/logout")]

    for address in (
        "/", "/queues", "/queues/mail", "/tasks", "/tasks?queue=mail&status=failed", f"/tasks/{task}", "/failures",
        "/batches", "/nodes", "/plugins", "/plugins/Greet", "/operations",
    ):  # fmt: skip
        reply = reader.get(address)
        page = Page(reply.text)
        assert reply.status == 200 and actions(page) == [], address
        assert not re.findall(r"<(?:button|input|select)[^>]* disabled", reply.text), address
        assert not [one for one in page.links if re.search("/(push|new|change|import)($|[?])", one)], address


def test_a_check_that_takes_too_long_is_said_at_the_form(tmp_path: Path) -> None:
    slow = {"type": "object", "properties": {"name": {"type": "string", "pattern": "^(a|a|aa)+$"}}}
    write_plugin(tmp_path, "Slow", "true", parameters=slow)
    url = f"sqlite://{tmp_path}/slow.db"
    with Client.open(url, plugins=[tmp_path], by="me@here", creates=True) as client:
        client.queues.create("slow", "Slow")
        with web.serving(url, [tmp_path]) as server:
            visitor = Visitor(server)
            visitor.sign_in("operate")
            reply = visitor.send("/queues/slow/push", "/push", **{"/name": "a" * 60 + "!"})
            is_refusal(reply, 422, "could not be checked within 2 s")
            assert visitor.send("/queues/slow/push", "/push", **{"/name": "aaa"}).status == 200
        assert client.count(Selection(queue="slow")) == 1


def test_a_fault_of_the_program_is_a_page_with_the_number_of_a_line_in_the_log(
    server: Web, admin: Visitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its words go nowhere: they may be of a task."""

    async def run(pool: ClientPool, do: Any, by: str) -> Any:
        raise RuntimeError("something inside /srv/secret.py")

    monkeypatch.setattr(ClientPool, "run", run)
    reply = admin.get("/queues")
    is_refusal(reply, 500, "its log says more")
    answer = server.get("/queues")
    assert (answer.status, answer.code) == (500, "internal") and "secret.py" not in answer.text + reply.text
    lines = [one.getMessage() for one in caplog.records]
    for number in (re.findall(r"request ([0-9a-f]{16})", reply.text)[0], answer.json["instance"].rpartition(":")[2]):
        assert [one for one in lines if number in one and "RuntimeError" in one]
    assert not [one for one in lines if "secret.py" in one]


def test_what_somebody_else_changes_meanwhile_is_said() -> None:
    problem = problem_of(ChangedMeanwhileError("it has changed"))
    assert (problem.code.word, problem.code.status) == ("changed", 409)

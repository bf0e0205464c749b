"""The page without a script: what each screen shows in its states, and what its forms do."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from disbatch_host.client import Client
from disbatch_host.clock import SystemClock
from disbatch_host.documents.records import new_task
from disbatch_host.web.guard import Place
from disbatch_host.web.pages import PAGES
from helpers import web
from helpers.browsing import Page, Visitor
from helpers.nodes import write_plugin
from helpers.processes import wait_until
from helpers.web import Web

MARK = "<script>alert('x')</script><img src=x onerror=alert(1)>"
NAME = "<img src=x onerror=alert(1)>"  # of a queue
SECRET = "planted-5ecret"
ENDED = {
    "failed": (2, {"error": {"code": "exit_3", "message": f"it says {MARK}", "detail": MARK,
                             "group": {"text": f"exit_3: {MARK}", "key": "0a1b2c3d"}}}),
    "concluded": (1, {"result": {MARK: MARK}}),
    "terminated": (-3, {"error": {"code": "timeout", "message": "took too long"}}),
    "orphaned": (-6, {"error": {"code": "lost", "message": "nobody knows"}}),
    "cancelled": (-5, {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plugins")
    parameters = {
        "type": "object",
        "required": ["user"],
        "properties": {
            "user": {"type": "string", "maxLength": 20, "title": "Mailbox", "description": MARK},
            "password": {"type": "string", "writeOnly": True},
            "tries": {"type": "integer", "minimum": 0},
            "mode": {"enum": ["copy", "move"]},
            "quiet": {"type": "boolean"},
            "hosts": {"type": "array", "items": {"type": "string"}},
        },
        "additionalProperties": False,
    }
    examples = [{"name": MARK, "parameters": {"user": "of_example", "password": SECRET}, "exit": 0}]
    home = write_plugin(directory, "Greet", "true", parameters=parameters, description=MARK, examples=examples)
    (home / "README.md").write_text(f"# {MARK}\n\n{MARK}\n\n```\n{MARK}\n```\n[link](javascript:alert(1))\n")
    return directory


@pytest.fixture(scope="module")
def things(client: Client) -> dict[str, str]:
    """A queue with a task of each state, in which every field that can be has markup, and the ids of these."""
    store, now = client.store, SystemClock().now()
    client.queues.create("mail", "Greet", description=MARK)
    client.queues.create("idle", "Nobody::Has")
    store.insert_queue({"_id": "broken", "class": "Greet", "maxthreads": MARK, "ctime": now})
    store.insert_queue({"_id": NAME, "class": MARK, "ctime": now, "paused": {"at": now, "by": MARK, "why": MARK}})
    ids: dict[str, str] = {}
    for word, (status, more) in ENDED.items():
        run = {"attempt": 2, "node": "n1", "host": MARK, "started": now, "ended": now, "seconds": 1.5,
               "reason": MARK, "outcome": MARK, "token": "t", "plugin": {"class": "Greet", "version": MARK},
               "output": {one: {"bytes": 20, "in_file": False} for one in ("stdout", "stderr")}}  # fmt: skip
        task = new_task("mail", {"user": MARK, "password": SECRET, MARK: [MARK, {MARK: 1}]}, now=now)
        task |= {"status": status, "node": "n1", "run": run, "stdout": f"out {MARK}\n\x1b[31mred\x1b[0m\x07\n",
                 "stderr": f"err {MARK}\n", "unique_key": f"{MARK}{word}", "created_by": MARK, **more,
                 "log": [{"time": now, "level": MARK, "message": MARK}], "secrets": ["/password"],
                 "attempts": [{**run, "attempt": 1, "error": {"code": MARK, "message": MARK}}]}  # fmt: skip
        (made,) = store.insert_tasks([task])
        ids[word] = str(made.id if hasattr(made, "id") else made)
    ids["waiting"] = str(client.push("mail", {"user": "ann", "password": SECRET}).id)
    ids["blocked"] = str(client.push("mail", {"user": "bob"}, delay="2h", priority=3).id)
    ids["idle"] = str(client.push("idle", {"year": 1}, checks=False).id)
    (marked,) = store.insert_tasks([new_task(NAME, {}, now=now)])
    ids["marked"] = str(marked.id if hasattr(marked, "id") else marked)
    client.push_many("mail", [{"user": f"u{n}"} for n in range(3)], batch="wave")
    return ids


@pytest.fixture(scope="module")
def admin(server: Web) -> Visitor:
    visitor = Visitor(server)
    assert visitor.sign_in("admin").status == 200
    return visitor


def addresses(things: dict[str, str]) -> list[str]:
    """Every page that can be got, with things that are there, in all of their states."""
    values = {"q": ["mail", "idle", "broken", quote(NAME, safe="")], "id": list(things.values()), "b": ["wave"],
              "class": ["Greet"]}  # fmt: skip
    found: list[str] = []
    for page in PAGES:
        if page.method != "GET" or {"{n}", "{o}", "{i}"} & {*page.path.split("/")}:
            continue
        name = re.search(r"\{(\w+)\}", page.path)
        found += [page.path.replace(name[0], one) for one in values[name[1]]] if name else [page.path]
    failed = things["failed"]
    tabs = [f"/tasks/{failed}?tab={one}" for one in ("stdout", "stderr", "log", "result", "followups", "document")]
    return [
        *(one for one in found if not one.startswith(("/search", "/operations/new"))), *tabs,
        f"/tasks/{failed}?tab=stdout&find=out&wrap=1&plain=1", f"/tasks/{failed}?tab=stdout&at=4",
        "/tasks?queue=mail&status=failed", "/tasks?queue=mail&p.user=nobody&error=exit_3", "/tasks?status=!concluded",
        "/tasks?failure=0a1b2c3d&columns=p.user,p.password", "/failures?queue=mail", "/batches?state=open",
        f"/queues/mail/push?like={failed}", "/queues/mail/push?as=json", "/queues/mail/push?example=0",
    ]  # fmt: skip


def test_every_page_is_shown_escaped_and_without_secrets(admin: Visitor, things: dict[str, str]) -> None:
    seen = ""
    for address in addresses(things):
        reply = admin.follow(admin.get(address))
        assert reply.status == 200, (address, reply.status, reply.text[-800:])
        assert SECRET not in reply.text, address
        page = Page(reply.text)
        own = [one for one in page.links if re.search(r"/static/[\w.-]+\.js$", one)]
        assert "img" not in page.tags and 3 <= page.tags.count("script") == len(own), address
        assert page.inline == [], (address, page.inline)
        assert not [one for one in page.links if one.startswith(("javascript:", "data:", "//", "http"))], address
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
        assert "unsafe" not in reply.headers["content-security-policy"]
        seen += reply.text
    assert html.escape(MARK, quote=False)[:20] in seen.replace("&#39;", "'").replace("&#34;", '"')


def test_states_are_said_in_words(admin: Visitor, things: dict[str, str]) -> None:
    said = {
        f"/tasks/{things['failed']}": ("exit_3", "exit_3: it says", "Retry", "stderr"),
        f"/tasks/{things['waiting']}": ("It waits:", "Cancel"),
        f"/tasks/{things['blocked']}": ("It is not due until", "Release"),
        "/queues/idle": ("Nobody::Has",),
        "/queues/broken": ("maxthreads",),
        "/tasks?queue=mail&p.user=nobody&error=exit_3": ("No task fits.", "Without <b>user = nobody</b>"),
        f"/tasks/{things['cancelled']}?tab=stdout": ("\ufffd", "c-red"),
        "/queues/idle/push": ("has published what it takes",),
    }
    for address, words in said.items():
        text = admin.follow(admin.get(address)).text
        for one in words:
            assert one in text, (address, one)


def test_who_only_reads_has_no_actions(server: Web, things: dict[str, str]) -> None:
    reader = Visitor(server)
    assert reader.sign_in("read").status == 200
    for address in ("/", "/queues/mail", "/tasks?queue=mail", f"/tasks/{things['failed']}", "/batches/wave"):
        forms = [one.action for one in reader.page(address).forms if one.method == "POST"]
        assert forms == ["/look", "/logout"], address
    assert reader.get("/queues/mail/push").status == 403
    refused = reader.post(f"/tasks/{things['failed']}/retry", [])
    assert refused.status == 403 and "operate" in refused.text


def test_nobody_is_signed_in_until_he_says_who_he_is(server: Web) -> None:
    visitor = Visitor(server)
    reply = visitor.get("/tasks?queue=mail&status=failed")
    assert reply.status == 303
    assert reply.headers["location"] == "/login?next=%2Ftasks%3Fqueue%3Dmail%26status%3Dfailed"
    refused = visitor.send("/login", "/login", token="dsb_wrong_token")
    assert refused.status == 401 and "not known here" in refused.text and "dsb_wrong_token" not in refused.text
    signed = visitor.post("/login", [("token", server.tokens["read"]), ("next", "/tasks?queue=mail")])
    assert (signed.status, signed.headers["location"]) == (303, "/tasks?queue=mail")
    cookie = signed.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "path=/" in cookie and "secure" not in cookie
    assert visitor.get("/queues").status == 200
    assert visitor.follow(visitor.post("/logout", [])).status == 200
    assert visitor.get("/queues").status == 303


@pytest.mark.parametrize(
    "wanted", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
def test_signing_in_leads_nowhere_else(server: Web, wanted: str) -> None:
    visitor = Visitor(server)
    reply = visitor.post("/login", [("token", server.tokens["read"]), ("next", wanted)])
    assert (reply.status, reply.headers["location"]) == (303, "/")


def test_a_form_of_another_site_is_refused(server: Web, admin: Visitor, things: dict[str, str]) -> None:
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {}):
        for path in ("/queues/mail/pause", "/logout", "/login", "/look", f"/tasks/{things['waiting']}/cancel"):
            reply = admin.post(path, [("token", server.tokens["admin"])], headers)
            assert reply.status == 403 and "page of this server" in reply.text, (path, headers)
    assert Visitor(server, cookies=dict(admin.cookies)).get("/queues").status == 200


def test_a_queue_is_made_paused_changed_and_deleted(admin: Visitor, client: Client) -> None:
    made = admin.send("/queues/new", "/queues/new", _id="made", **{"class": "Greet"}, maxthreads="3")
    assert made.status == 200 and client.queues.get("made").maxthreads == 3
    paused = admin.send("/queues/made", "/pause", reason="mail server is down")
    assert "mail server is down" in paused.text
    assert (client.queues.get("made").paused or {})["by"] == "admin@web"
    assert admin.send("/queues/made", "/resume").status == 200 and client.queues.get("made").paused is None
    changed = admin.send("/queues/made/change", "/change", rate="10/m", maxthreads="")
    queue = client.queues.get("made")
    assert changed.status == 200 and queue.maxthreads is None and queue.rate is not None
    for wrong in ("many", "1" * 19):
        assert admin.send("/queues/made/change", "/change", maxthreads=wrong).status == 400
    assert admin.send("/queues/made", "/delete", name="other").status == 400
    assert admin.send("/queues/made", "/delete", name="made").status == 200
    assert client.store.find_queue("made") is None


def test_who_was_slower_sees_all_three_values(admin: Visitor, client: Client) -> None:
    client.queues.create("shared", "Greet", maxthreads=1, description="before")
    (form,) = [one for one in admin.page("/queues/shared/change").forms if one.action.endswith("/change")]
    client.queues.set("shared", maxthreads=7, description="of another")
    given = [(name, "5" if name == "maxthreads" else value) for name, value in form.fields]
    reply = admin.post(form.action, given)
    assert reply.status == 412 and client.queues.get("shared").maxthreads == 7
    cells = re.findall(r'data-l="(yours|now|before)">([^<]*)<', reply.text)
    assert [one for one in cells if one[1] in "571"] == [("yours", "5"), ("now", "7"), ("before", "1")]
    (again,) = [one for one in Page(reply.text).forms if one.action.endswith("/change")]
    assert dict(again.fields)["maxthreads"] == "5" and dict(again.fields)["description"] == "of another"
    assert admin.follow(admin.post(again.action, again.fields)).status == 200
    assert client.queues.get("shared").maxthreads == 5 and client.queues.get("shared").description == "of another"


def test_a_task_is_pushed_by_its_form_and_what_does_not_fit_is_said_at_its_field(
    admin: Visitor, client: Client, things: dict[str, str]
) -> None:
    client.queues.create("formed", "Greet")
    wrong = {"/user": "u" * 21, "/password": SECRET, "/tries": "-1", "/mode": '"move"', "copies": "1"}
    refused = admin.send("/queues/formed/push", "/push", **wrong)
    assert refused.status == 422 and SECRET not in refused.text
    assert 'href="#f/user"' in refused.text and 'href="#f/tries"' in refused.text
    filled = dict(next(one for one in Page(refused.text).forms if one.action.endswith("/push")).fields)
    assert filled["/tries"] == "-1" and filled["/mode"] == '"move"' and filled["/password"] == ""
    assert client.count(_of("formed")) == 0
    right = {**wrong, "/user": "ann", "/tries": "2", "/quiet": "false", "/hosts": "a\r\nb", "priority": "4"}
    assert "It fits" in admin.send("/queues/formed/push", "/push", **right, check="1").text
    pushed = admin.send("/queues/formed/push", "/push", **right)
    assert pushed.status == 200 and "created" in pushed.text and SECRET not in pushed.text
    (task,) = client.find(_of("formed"))
    expected = {"user": "ann", "password": SECRET, "tries": 2, "mode": "move", "quiet": False, "hosts": ["a", "b"]}
    assert task.parameters == expected and task.document["priority"] == 4
    assert task.document["created_by"] == "admin@web"


def test_json_and_form_keep_each_others_value_but_no_secret(admin: Visitor, client: Client) -> None:
    client.queues.create("both", "Greet")
    as_json = admin.send("/queues/both/push", "/push", **{"/user": "ann", "/password": SECRET}, switch="json")
    (form,) = [one for one in Page(as_json.text).forms if one.action.endswith("/push")]
    assert '"user": "ann"' in dict(form.fields)["json"] and SECRET not in as_json.text
    text = f'{{"user": "bob", "password": "{SECRET}", '
    broken = admin.post(form.action, [("as", "json"), ("json", text)])
    assert broken.status == 422 and "bob" in broken.text and SECRET not in broken.text
    masked = admin.post(form.action, [("as", "json"), ("json", '{"user": "bob", "password": "********"}')])
    assert masked.status == 422 and "enter it again" in masked.text
    back = admin.post(form.action, [("as", "json"), ("json", text + '"tries": 1}'), ("switch", "form")])
    fields = dict(next(one for one in Page(back.text).forms if one.action.endswith("/push")).fields)
    assert (fields["/user"], fields["/tries"], fields["/password"]) == ("bob", "1", "") and SECRET not in back.text
    copies = admin.post(form.action, [("as", "json"), ("json", text + '"tries": 1}'), ("copies", "3")])
    assert "copies=3" in copies.headers["location"] and len(list(client.find(_of("both")))) == 3


def _of(queue: str) -> Any:
    from disbatch_host.client import Selection

    return Selection(queue=queue)


def test_a_task_is_cancelled_and_run_again(admin: Visitor, client: Client) -> None:
    client.queues.create("turned", "Greet")
    task = str(client.push("turned", {"user": "ann"}).id)
    cancelled = admin.send(f"/tasks/{task}", "/cancel", reason=MARK[:20])
    assert cancelled.status == 200 and client.get(task).status == -5
    again = admin.send(f"/tasks/{task}", "/retry")
    assert again.status == 200 and client.get(task).status == -2
    late = admin.post(f"/tasks/{task}/retry", [])
    assert late.status == 409 and "has not ended" in late.text
    assert admin.send(f"/tasks/{task}", "/cancel").status == 200
    assert admin.send(f"/tasks/{task}", "/delete").status == 200
    assert admin.get(f"/tasks/{task}").status == 404


def test_all_that_fit_are_run_again_once_it_is_said_what_becomes_of_them(admin: Visitor, client: Client) -> None:
    client.queues.create("all", "Greet")
    ids = [str(one.id) for one in client.push_many("all", [{"user": f"u{n}"} for n in range(7)])]
    client.cancel(ids[:5])
    assert "action=retry" in admin.get("/tasks?queue=all&status=cancelled").text
    address = "/operations/new?action=retry&queue=all&status=cancelled"
    wait_until(lambda: "Run 5 again" in admin.get(address).text)  # see `asked` of test_lists.py
    asked = admin.get(address)
    assert asked.status == 200 and client.get(ids[0]).status == -5
    (form,) = [one for one in Page(asked.text).forms if one.action.endswith("/operations")]
    late = client.push("all", {"user": "late"}).id
    client.cancel(late)  # after it was said: left alone
    fields = [(name, MARK if name == "reason" else value) for name, value in form.fields]
    begun = admin.post(form.action, fields)
    assert begun.status == 303 and begun.headers["location"].startswith("/operations/")
    shown: list[str] = []

    def is_done() -> bool:
        shown.append(admin.get(begun.headers["location"]).text)
        return "<b>5 put back to wait</b>" in shown[-1]

    wait_until(is_done, within_seconds=60)
    assert "<script>alert" not in shown[-1] and ">under way</span>" in shown[-1]
    assert [client.get(one).status for one in (*ids, late)] == [-2] * 7 + [-5]
    assert "retry in all" in admin.get("/operations").text
    assert admin.get("/operations/0123456789abcdef01234567").status == 404


def test_what_cannot_be_undone_needs_its_number_typed(admin: Visitor, client: Client) -> None:
    client.queues.create("typed", "Greet")
    task = str(client.push("typed", {"user": "ann"}).id)
    client.cancel(task)
    address = "/operations/new?action=delete&queue=typed&status=cancelled"
    wait_until(lambda: "Delete 1" in admin.get(address).text)
    refused = admin.send(address, "/operations", typed="2")
    assert refused.status == 400 and "type the number 1" in refused.text and client.get(task).status == -5
    wrong = admin.get("/operations/new?action=delete&queue=typed&status=created")
    assert wrong.status == 422 and "status" in wrong.text
    assert admin.send(address, "/operations", typed="1").status == 200


def test_a_filter_is_added_by_its_form_and_pages_are_gone_through(admin: Visitor, client: Client) -> None:
    client.queues.create("long", "Greet")
    client.push_many("long", [{"user": f"u{n}"} for n in range(120)])
    added = admin.get("/tasks?queue=long&add=p.&parameter=user&value=u7")
    assert (added.status, added.headers["location"]) == (303, "/tasks?queue=long&p.user=u7")
    assert "<b>1</b> fits" in admin.get("/tasks?queue=long&p.user=u7").text
    assert "<b>119</b> fit" in admin.get("/tasks?queue=long&p.user=!u7").text
    seen: list[str] = []
    address: str | None = "/tasks?queue=long"
    while address is not None:
        text = admin.get(address).text
        seen += re.findall(r'<tr id="t-(\w+)"', text)
        found = re.search(r'href="([^"]+)" rel="next"', text)
        address = html.unescape(found[1]) if found else None
    assert len(seen) == len(set(seen)) == 120


@pytest.mark.parametrize("wrong", ["since=yesterdayy", "status=!x", "queue=no_such", "cursor=nonsense!", "where=user"])
def test_a_filter_that_cannot_be_is_said(admin: Visitor, wrong: str) -> None:
    reply = admin.get(f"/tasks?{wrong}")
    assert reply.status in (400, 404) and 'class="note' in reply.text


def test_the_search_finds_ids_names_and_filters(admin: Visitor, things: dict[str, str]) -> None:
    failed = things["failed"]
    found = {
        failed: f"/tasks/{failed}", "mail": "/queues/mail", "wave": "/batches/wave", "Greet": "/plugins/Greet",
        "queue:mail+status=failed+user=ann": "/tasks?queue=mail&status=failed&p.user=ann",
        "too+long": "/tasks?grep=too+long",
    }  # fmt: skip
    for text, address in found.items():
        assert admin.get(f"/search?q={text}").headers["location"] == address


def test_what_is_not_there_is_said_with_what_is_like_it(admin: Visitor) -> None:
    reply = admin.get("/taks")
    assert reply.status == 404 and 'href="/tasks"' in reply.text
    reply = admin.get("/queues/mial")
    assert reply.status == 404 and "mail" in reply.text
    assert admin.get("/tasks/0123456789abcdef01234567").status == 404
    assert admin.get("/api/v1/nothing").headers["content-type"] == "application/problem+json"


def test_files_have_names_of_their_content_and_are_kept_for_a_year(server: Web) -> None:
    links = [one for one in Visitor(server).page("/login").links if "/static/" in one]
    assert len(links) == 5
    for link in links:
        reply = server.get(link, base="", role=None)
        assert reply.status == 200 and reply.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert re.search(r"-[0-9a-f]{10}\.(js|css|svg)$", link)
    assert server.get("/static/app.css", base="", role=None).status == 404
    style = next(one for one in links if one.endswith(".css"))
    assert len(server.get(style, base="", role=None).data) <= 14 * 1024


@pytest.fixture(scope="module")
def below(living_url: str, client: Client, plugins: Path, things: dict[str, str]) -> Iterator[Web]:
    with web.serving(
        living_url, [plugins], place=Place(base_path="/disbatch"), bound_to={"mail_only": ["mail"]}
    ) as one:
        yield one


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "stripped"])
def test_every_link_is_below_the_base_path(below: Web, things: dict[str, str], keeps: bool) -> None:
    """`keeps`: whether the proxy leaves the path as it is."""
    visitor = Visitor(below, base="/disbatch")
    visitor.sign_in("admin")
    for address in addresses(things):
        reply = visitor.get(f"/disbatch{address}" if keeps else address)
        if reply.status == 303:
            assert reply.headers["location"].startswith("/disbatch/")
            continue
        links = [one for one in Page(reply.text).links if not one.startswith("#")]
        assert links and [one for one in links if not one.startswith("/disbatch/")] == []
    cookie = visitor.post("/disbatch/login", [("token", below.tokens["admin"])]).headers["set-cookie"]
    assert "Path=/disbatch/" in cookie


def test_who_sees_one_queue_sees_no_other(below: Web, things: dict[str, str]) -> None:
    visitor = Visitor(below, base="/disbatch")
    visitor.sign_in("mail_only")
    for address in ("/", "/queues", "/tasks", "/failures", "/nodes", "/plugins"):
        text = visitor.get(address).text
        assert "idle" not in text and "broken" not in text, address
    assert visitor.get("/queues/idle").status == 404
    assert visitor.get(f"/tasks/{things['idle']}").status == 404
    assert visitor.get("/batches").status == 403

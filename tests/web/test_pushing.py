"""Tasks that are pushed over the API: as lines, with masks that come back, with schemas that are slow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from disbatch_host.client import Client, Selection
from disbatch_host.client.pushing import ParametersError
from helpers import web
from helpers.browsing import Page, Visitor
from helpers.importing import text_of
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


LATE = (
    ({"at": "yesterday-ish"}, "/tasks/2/at"),
    ({"delay": "5"}, "/tasks/2/delay"),
    ({"expires": "2001-01-01"}, "/tasks/2/expires"),
    ({"delay": "2h", "expires": "1h"}, "/tasks/2/expires"),
    ({"delay": "1h", "at": "14:00"}, "/tasks/2"),
    ({"priority": 2**40}, "/tasks/2/priority"),
    ({"after": ["0" * 24]}, "/tasks/2/after"),
    ({"after_any": True}, "/tasks/2"),
    ({"unique_key": "a\nb"}, "/tasks/2/unique_key"),
    ({"batch": "@last"}, "/tasks/2/batch"),
)


@pytest.mark.parametrize(("wrong", "pointer"), LATE, ids=[str(one) for one, _ in LATE])
def test_nothing_is_created_where_one_of_several_cannot_be(
    server: Web, client: Client, wrong: dict[str, object], pointer: str
) -> None:
    """Tasks before it were there, and the answer said that nothing had been done."""
    if client.store.find_queue("late") is None:
        client.queues.create("late", "Greet")
    fine = {"parameters": {"user": "ann"}}
    tasks = {"tasks": [fine, {**fine, "priority": 3}, {**fine, **wrong}, {"parameters": {"user": 3}}]}
    reply = server.post("/queues/late/tasks", tasks)
    assert (reply.status, reply.code) == (422, "faults"), reply.text
    assert {one["pointer"] for one in reply.json["faults"]} == {pointer, "/tasks/3/parameters/user"}
    assert client.count(Selection(queue="late")) == 0
    checked = server.post("/queues/late/tasks/check", tasks, role="read")
    assert {one["pointer"] for one in checked.json["faults"]} == {pointer, "/tasks/3/parameters/user"}


def test_a_closed_batch_among_several_is_said_before_any_is_created(server: Web, client: Client) -> None:
    client.queues.create("closed_late", "Greet")
    client.push("closed_late", {"user": "ann"}, batch="was-open")
    client.batches.close("was-open")
    fine = {"parameters": {"user": "ann"}}
    reply = server.post("/queues/closed_late/tasks", {"tasks": [fine, {**fine, "batch": "was-open"}]})
    assert (reply.status, reply.code) == (409, "closed") and client.count(Selection(queue="closed_late")) == 1


def test_several_that_differ_in_everything_are_created_in_their_order(server: Web, client: Client) -> None:
    client.queues.create("differ", "Greet")
    first = client.push("differ", {"user": "zero"}, unique_key="k")
    wanted = [
        {"parameters": {"user": "a"}, "priority": 5},
        {"parameters": {"user": "b"}, "priority": 5, "unique_key": "k"},
        {"parameters": {"user": "c"}, "priority": 5, "unique_key": "l"},
        {"parameters": {"user": "d"}, "delay": "1h", "batch": "new-one"},
        {"parameters": {"user": "e"}, "after": [str(first.id)]},
    ]
    reply = server.post("/queues/differ/tasks", {"tasks": wanted})
    assert (reply.status, reply.json["created"], reply.json["existing"]) == (201, 4, 1), reply.text
    ids = reply.json["ids"]
    found = [client.get(one).document for one in ids]
    assert ids[1] == str(first.id)
    assert [one["parameters"]["user"] for one in found] == ["a", "zero", "c", "d", "e"]
    assert (found[0]["priority"], found[3]["batch"], found[4]["after"]) == (5, "new-one", [first.id])
    assert [one["created_by"] for one in found] == ["admin@web"] * 1 + [found[1]["created_by"]] + ["admin@web"] * 3


@pytest.fixture(scope="module")
def visitor(server: Web) -> Visitor:
    found = Visitor(server)
    assert found.sign_in("operate").status == 200
    return found


def test_a_required_text_that_is_left_empty_is_asked_for_at_its_field(visitor: Visitor, client: Client) -> None:
    client.queues.create("left_empty", "Greet")
    for given in ({}, {"check": "1"}):
        refused = visitor.send("/queues/left_empty/push", "/push", **{"/user": "", "/tries": "1"}, **given)
        assert refused.status == 422 and "user</a>: is required; an empty text can be given" in refused.text
        assert 'id="f/user-e">is required' in refused.text and 'aria-required="true"' in refused.text
    assert client.count(Selection(queue="left_empty")) == 0
    meant = visitor.post("/queues/left_empty/push", [("as", "json"), ("json", '{"user": ""}')])
    assert meant.status == 303
    (task,) = client.find(Selection(queue="left_empty"))
    assert task.parameters == {"user": ""}
    again = visitor.get(f"/queues/left_empty/push?like={task.id}")
    (form,) = [one for one in Page(again.text).forms if one.action.endswith("/push")]
    assert dict(form.fields)["/user"] == '""' and visitor.post(form.action, form.fields).status == 303
    assert [one.parameters for one in client.find(Selection(queue="left_empty"))] == [{"user": ""}] * 2


def test_json_that_is_none_stays_where_it_is_when_the_form_is_asked_for(visitor: Visitor, client: Client) -> None:
    """The form cannot hold it: all that was typed was gone, without a word."""
    client.queues.create("broken_json", "Greet")
    typed = '{"user": "ann", "tries": }'
    reply = visitor.post("/queues/broken_json/push", [("as", "json"), ("json", typed), ("switch", "form")])
    assert reply.status == 422 and "expected JSON" in text_of(reply)
    (form,) = [one for one in Page(reply.text).forms if one.action.endswith("/push")]
    assert dict(form.fields)["json"] == typed


def test_what_was_pushed_is_shown_as_it_is_now_until_it_has_ended(visitor: Visitor, client: Client) -> None:
    client.queues.create("shown_live", "Greet")
    pushed = visitor.send("/queues/shown_live/push", "/push", **{"/user": "ann"})
    (task,) = client.find(Selection(queue="shown_live"))
    live = pushed.text.partition('<div id="live"')[2].partition("<form")[0]
    assert f'/tasks/{task.id}"' in live and 'class="st created"' in live and "hx-get" in live
    assert "What will happen" not in pushed.text and "Waits behind" not in pushed.text
    assert f"disbatch-host task push shown_live --like {task.id}" in pushed.text
    client.cancel(task.id)
    ended = visitor.get(f"/queues/shown_live/push?pushed={task.id}&like={task.id}")
    live = ended.text.partition('<div id="live"')[2].partition("<form")[0]
    assert 'class="st cancelled"' in live and "hx-get" not in live
    assert visitor.get(f"/queues/shown_live/push?pushed={'0' * 24}").status == 200


def test_a_form_says_what_waits_before_and_whether_anybody_runs_it(visitor: Visitor, client: Client) -> None:
    client.queues.create("waits", "Greet")
    first = visitor.get("/queues/waits/push")
    assert "No living node can run this; a task waits until one has the plugin Greet." in text_of(first)
    assert "Waits behind nothing" in text_of(first) and "at a terminal" not in first.text
    client.push("waits", {"user": "ann"})
    assert "Waits behind 1 task " in text_of(visitor.get("/queues/waits/push"))


def test_a_check_opens_nothing_and_says_the_same_at_a_terminal(visitor: Visitor, client: Client) -> None:
    client.queues.create("only_checked", "Greet")
    plain = visitor.send("/queues/only_checked/push", "/push", **{"/user": "o'ann"}, check="1")
    assert "It fits" in plain.text and re.search(r"<details>\s*<summary><b>When and how often", plain.text)
    assert """disbatch-host task push only_checked '{"user":"o'"'"'ann"}'""" in text_of(plain)
    timed = {"/user": "ann", "when": "2h", "priority": "3", "check": "1"}
    text = text_of(visitor.send("/queues/only_checked/push", "/push", **timed))
    assert """push only_checked '{"user":"ann"}' --delay 2h --priority 3""" in text
    secret = visitor.send("/queues/only_checked/push", "/push", **{"/user": "ann", "/password": "s3cret"}, check="1")
    assert "It fits" in secret.text and "at a terminal" not in secret.text
    wrong = text_of(visitor.send("/queues/only_checked/push", "/push", **{"/user": "ann", "when": "soonish"}))
    assert 'Not before : expected a duration like "2h", a time like' in wrong and "local time of the server" in wrong

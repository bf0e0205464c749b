"""The screens of nodes and queues with what nodes say of themselves: states, load, plugins, runs that go on alone."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import Any

import pytest

from client.documents import NEVER_ALIVE, away, put_node, put_task
from disbatch_host.client import Client
from disbatch_protocol.status import Status
from helpers.browsing import Visitor
from helpers.web import Web

MARK = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def nodes(client: Client) -> Client:
    store = client.store
    client.queues.create("served", "Greet", maxthreads=10, maxtotal=20)
    kinds = [{"class": "Greet", "version": "1.2.0"}]
    served = [{"queue": "served", "class": "Greet", "threads": 10, "processing": 4}]
    put_node(store, "mig01", queuetypes=kinds, heartbeat={"pid": 7, "running": 4, "queues": served},
             settings={"max_total": 50}, host={"name": "machine one"})  # fmt: skip
    put_node(store, "mig02", queuetypes=[{"class": "Greet", "version": "1.1.9"}], state="draining",
             set_aside=[{"class": "Mail", "reason": f"its program is gone {MARK}", "since": store.now()}],
             broken=[{"manifest": "/plugins/odd/plugin.json", "reason": "no command"}],
             troubles=[{"where": "queue", "culprit": "q7", "what": "cannot be read"}])  # fmt: skip
    put_node(store, "mig03", version="disbatch-host 0.1.9", settings=NEVER_ALIVE)
    put_node(store, "mig04", heartbeat={"pid": 7, "kept": 3, "queues": []}, **away(store, why="upgrade"))
    put_node(store, "mig05", version="disbatch-host 0.1.0")
    store.put_node(
        {"_id": "perl1", "node": "perl1", "version": "Disbatch 4.2", "timestamp": store.now()}, replacing=None
    )
    put_task(store, "served", status=Status.RUNNING, node="mig03", run={"node": "mig03"})
    return client


@pytest.fixture(scope="module")
def admin(server: Web, nodes: Client) -> Visitor:
    visitor = Visitor(server)
    visitor.sign_in("admin")
    return visitor


def row_of(text: str, node: str) -> str:
    found = re.search(rf'<tr id="n-{node}">.*?</tr>', text, re.DOTALL)
    assert found is not None
    return html.unescape(re.sub(r"<[^>]+>", " ", found[0]))


def test_the_list_says_state_load_age_versions_and_what_is_odd(admin: Visitor) -> None:
    text = admin.get("/nodes").text
    assert re.search(r"mig01\s+running.*4\s+50.*ago\s+machine one\s+disbatch-host 0\.2\.0", row_of(text, "mig01"))
    assert "draining" in row_of(text, "mig02") and "Mail set aside: its program is gone" in row_of(text, "mig02")
    assert "odd broken: no command" in row_of(text, "mig02") and "cannot be read" in row_of(text, "mig02")
    assert re.search(r"dead \d", row_of(text, "mig03")) and "3 runs kept there" in row_of(text, "mig04")
    assert "of another program: drain and stop are not known to it" in row_of(text, "perl1")
    assert "Nodes run different versions" in text and "disbatch-host 0.1.0: mig05" in text
    assert "≠ disbatch-host 0.1.0" in row_of(text, "mig05") and "≠" not in row_of(text, "mig01")
    assert "0.1.9" not in text.partition("<table")[0]  # a dead one does not differ any more


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("mig01", ["machine one", "served", "≠ 1.1.9 on mig02", "Nodes run different versions"]),
        ("mig02", ["set aside", "its program is gone", "broken", "/plugins/odd/plugin.json", "says what to do",
                   "Correct its files", "q7: cannot be read"]),
        ("mig03", ["has been silent for", "Another node settles its tasks"]),
        ("mig04", ["is away until", "upgrade; ann@here", "3 of its runs go on there without it"]),
        ("perl1", ["of another program (Disbatch 4.2); drain and stop are not known to it"]),
    ],
)  # fmt: skip
def test_one_node_says_what_to_do(admin: Visitor, node: str, said: list[str]) -> None:
    text = admin.get(f"/nodes/{node}").text
    assert MARK not in text
    words = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", text)))
    for one in said:
        assert one in words, one


def actions(visitor: Visitor, node: str) -> list[str]:
    forms = visitor.page(f"/nodes/{node}").forms
    return [one.action.rpartition("/")[2] for one in forms if "/nodes/" in one.action]


def test_what_can_be_asked_of_a_node_depends_on_its_state_and_on_who_asks(server: Web, admin: Visitor) -> None:
    found = {one: actions(admin, one) for one in ("mig01", "mig02", "mig03", "mig04", "perl1")}
    assert found == {"mig01": ["drain", "stop"], "mig02": ["resume", "stop"], "mig03": ["delete"], "mig04": [],
                     "perl1": found["perl1"]} and "drain" not in found["perl1"]  # fmt: skip
    operator, reader = Visitor(server), Visitor(server)
    operator.sign_in("operate")
    reader.sign_in("read")
    assert actions(operator, "mig01") == ["drain"] and actions(operator, "mig03") == []
    assert actions(reader, "mig01") == []


def test_a_queue_says_which_version_runs_where_and_what_of_its_limits_is_in_use(admin: Visitor) -> None:
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", admin.get("/queues/served").text))
    assert "class Greet 1.2.0 (mig01), 1.1.9 (mig02)" in words
    assert "10 (mig01 4 in use)" in words and "20 (1 in use)" in words


def test_a_queue_counts_blocked_and_terminated_tasks_and_links_them(admin: Visitor, nodes: Client) -> None:
    later = nodes.store.now() + timedelta(hours=1)
    put_task(nodes.store, "counted", status=Status.BLOCKED, blocked={"until": later})
    nodes.queues.create("counted", "Greet")
    put_task(nodes.store, "counted", status=Status.TERMINATED)
    text = html.unescape(admin.get("/queues/counted").text)
    assert re.search(r'of these blocked</dt><dd><a href="/tasks\?queue=counted&status=blocked">1<', text)
    assert re.search(r'of these terminated</dt><dd><a href="/tasks\?queue=counted&status=terminated">1<', text)
    for status in ("blocked", "terminated", "failed", "waiting"):
        assert "<b>1</b> fits" in admin.get(f"/tasks?queue=counted&status={status}").text


def test_a_queue_that_is_gone_says_so_and_can_be_made_again(admin: Visitor, nodes: Client, server: Web) -> None:
    put_task(nodes.store, "was_here")
    text: Any = admin.get("/queues/was_here").text
    assert "The queue was_here is gone; 1 of its tasks wait" in text
    assert 'href="/queues/new?id=was_here"' in text and "action=cancel" in text
    assert 'value="was_here"' in admin.get("/queues/new?id=was_here").text
    assert "Cancel 1" in admin.get("/operations/new?action=cancel&queue=was_here").text

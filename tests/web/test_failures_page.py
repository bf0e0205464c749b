"""The screen of failures: groups, each with the filter that selects just its tasks, the chart, its states in words."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from client.documents import put_task
from disbatch_host.client import Client
from disbatch_host.documents.causes import with_group
from disbatch_protocol.status import Status
from helpers.browsing import Visitor
from helpers.web import Web


def failed(client: Client, queue: str, message: str, node: str, version: str | None, **more: Any) -> Any:
    error = with_group({"code": "exit_3", "message": message})
    run = {} if version is None else {"plugin": {"class": "Greet", "version": version}}
    return put_task(client.store, queue, **{"status": Status.FAILED, "error": error, "run": run, "node": node, **more})


@pytest.fixture(scope="module")
def planted(client: Client) -> Client:
    client.queues.create("grouped", "Greet")
    for _ in range(3):
        failed(client, "grouped", "no room", "n1", "1.0")
    failed(client, "grouped", "no room", "n2", "1.1", age_seconds=7200)
    failed(client, "grouped", "user 5 is gone", "n2", "1.1")
    failed(client, "grouped", "user 6 is gone", "n2", None)
    put_task(client.store, "grouped", status=Status.FAILED, error={"code": "old", "message": "m"}, node="n1")
    return client


@pytest.fixture(scope="module")
def visitor(server: Web) -> Visitor:
    visitor = Visitor(server)
    visitor.sign_in("operate")
    return visitor


def rows_in(text: str) -> list[tuple[int, str, str | None]]:
    """Of each group: how many, the tasks it leads to, the question about a retry of them."""
    found = []
    for row in re.findall(r'<tr id="g-.*?</tr>', text, re.DOTALL):
        count = re.search(r'<td class="n s">(\d+)<', row)
        links = [html.unescape(one) for one in re.findall(r'href="([^"]+)"', row)]
        assert count is not None
        found.append((int(count[1]), links[0], next((one for one in links if "/operations/new" in one), None)))
    return found


@pytest.mark.parametrize(
    ("by", "counts"),
    [
        ("", [4, 2, 1]), ("error,version", [3, 1, 1, 1, 1]), ("error,node", [3, 2, 1, 1]), ("error,queue", [4, 2, 1]),
        ("node", [4, 3]), ("version", [3, 2, 2]), ("error,version,node,queue", [3, 1, 1, 1, 1]),
    ],
)  # fmt: skip
def test_a_group_leads_to_its_tasks_and_to_a_retry_of_just_these(
    visitor: Visitor, planted: Client, by: str, counts: list[int]
) -> None:
    reply = visitor.get(f"/failures?queue=grouped{f'&by={by}' if by else ''}")
    assert reply.status == 200
    rows = rows_in(reply.text)
    assert [one for one, _, _ in rows] == counts
    for count, to, retry in rows:
        listed = visitor.get(to).text
        assert f"<b>{count}</b> fit" in listed, to
        assert retry is not None and f"Run {count} again" in visitor.get(retry).text, retry


def test_the_api_gives_the_same_groups(server: Web, planted: Client) -> None:
    found = server.get("/failures?queue=grouped&by=error,version").json
    assert found["seen"] == 7 and found["is_all"]
    for one in found["groups"]:
        query = "&".join(f"{name}={each}" for name, value in one["filter"].items()
                         for each in (value if isinstance(value, list) else [value]))  # fmt: skip
        assert server.get(f"/tasks/count?queue=grouped&{query}").json == {"value": one["count"], "is_exact": True}
    wrong = server.get("/failures?by=colour")
    assert (wrong.status, wrong.code) == (400, "query")


def test_what_groups_are_told_apart_by_is_in_the_address_and_one_always_stays(
    visitor: Visitor, planted: Client
) -> None:
    text = html.unescape(visitor.get("/failures?queue=grouped&by=node").text)
    assert re.search(r'href="/failures\?queue=grouped&by=error%2Cnode">reason<', text)
    assert re.search(r'href="/failures\?queue=grouped" aria-current="true">node<', text)
    assert visitor.get("/failures?by=colour").status == 400


def test_the_chart_says_how_many_failed_in_which_hour(visitor: Visitor, planted: Client) -> None:
    text = visitor.get("/failures?queue=grouped").text
    label = re.search(r'aria-label="Still failed, by hour, in the last 24 hours: now (\d+), least 0, most (\d)"', text)
    assert label is not None and int(label[2]) in range(3, 7)  # the hour may end while they are planted
    assert text.count("<rect") in (2, 3)
    assert "<rect" not in visitor.get("/failures?queue=grouped&error=none").text


def test_since_when_and_that_nothing_failed_is_said(visitor: Visitor, planted: Client) -> None:
    text = visitor.get("/failures?queue=grouped&ended_since=1h").text
    assert re.search(r"<h1>6 failed <span class=\"dim\">since [^<]+</span>", text)
    nothing = visitor.get("/failures?queue=grouped&ended_since=1h&node=n7").text
    assert re.search(r"Nothing has failed since \S.*that fits\.", nothing)

"""Why a task has not started: what is read around it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from client.documents import NEVER_ALIVE, put_node, put_task
from disbatch_host.client import Client
from disbatch_host.client.queues import Queues
from disbatch_host.client.why import snapshot_of
from disbatch_host.decide.why import Code
from disbatch_host.errors import NotFoundError
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status


def test_a_task_of_a_queue_that_is_not_there_waits_for_it(client: Client, store: Store) -> None:
    found = client.why(put_task(store, "nope"))
    assert found.code is Code.NO_QUEUE and "nope" in found.sentence


def test_without_a_node_a_task_waits_for_one(client: Client, store: Store) -> None:
    client.queues.create("q", "mail")
    assert client.why(str(put_task(store))).code is Code.NO_NODE


def test_a_paused_queue_and_a_full_one_are_told(client: Client, store: Store) -> None:
    put_node(store, queuetypes=[{"class": "mail"}], settings={"max": 10})
    client.queues.create("q", "mail", maxtotal=1)
    put_task(store, status=Status.RUNNING, node="n1")
    task_id = put_task(store)
    assert client.why(task_id).code is Code.MAXTOTAL
    Queues(store, "me@here", within_seconds=0).pause("q", why="server down")  # that node does not live
    found = client.why(task_id)
    assert found.code is Code.PAUSED and "server down" in found.sentence


def test_predecessors_are_read(client: Client, store: Store) -> None:
    client.queues.create("q", "mail")
    first = client.push("q", {}).id
    found = client.why(client.push("q", {}, after=[first]).id)
    assert found.code is Code.AFTER and str(first) in found.sentence


def test_what_comes_before_is_counted_by_priority_and_order(client: Client, store: Store) -> None:
    client.queues.create("q", "mail")
    low, first, second = (put_task(store, priority=number) for number in (-1, 0, 0))
    high = put_task(store, priority=9)
    assert [snapshot_of(store, one).ahead for one in (high, first, second, low)] == [0, 1, 2, 3]
    client.queues.set("q", sort="lifo")
    assert [snapshot_of(store, one).ahead for one in (high, second, first, low)] == [0, 1, 2, 3]


def test_a_task_whose_node_is_not_there_is_not_said_to_run(client: Client, store: Store) -> None:
    put_node(store, "n1", settings=NEVER_ALIVE)
    held = {"node": "n1", "claim": {"token": "t"}}
    running = put_task(store, status=Status.RUNNING, **held)
    claimed = put_task(store, status=Status.CLAIMED, **held)
    again = put_task(store, status=Status.RUNNING, run={"idempotent": True}, **held)
    gone = put_task(store, status=Status.RUNNING, node="n9", claim={"token": "t"})
    foreign = put_task(store, status=Status.RUNNING, node="n9")
    dead = "node n1, which was last heard from 0 s ago and is taken for dead; "
    alone = f"{dead}no other node is alive; the next node that is started settles it: it "

    def sentence(task_id: Any) -> str:
        return re.sub(r"from \d+ s ago", "from 0 s ago", client.why(task_id).sentence)

    assert sentence(running).startswith(f"it was running on {alone}becomes orphaned, since its plugin")
    assert sentence(claimed) == f"it was claimed by {alone}goes back to its queue"
    assert sentence(again) == f"it was running on {alone}goes back to its queue and runs again"
    assert "node n9, which is not in the store; once a node with this id is started" in client.why(gone).sentence
    assert client.why(foreign).code is Code.RUNNING  # of another program, of which nothing is known
    put_node(store, "n2")
    assert f"{dead}another node settles it within seconds: it goes" in sentence(again)
    client.cancel([again])
    assert "it is cancelled; its cancellation was requested by me@here" in client.why(again).sentence
    there = put_task(store, status=Status.RUNNING, node="n2", claim={"token": "t"})
    found = [client.why(one).code for one in (running, claimed, again, gone, there)]
    assert found == [*[Code.LOST_NODE] * 4, Code.RUNNING]


def test_a_task_that_is_not_there_is_an_error(client: Client) -> None:
    with pytest.raises(NotFoundError, match="no task 'nope'"):
        client.why("nope")

"""A pause is a pause: once the command has returned, no living node claims against it; both stores."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest

from disbatch_host.client import Client
from disbatch_host.client.queues import Queues
from disbatch_protocol.status import Status
from helpers.nodes import COMMAND, Cluster
from helpers.processes import wait_until


def command(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, "--store", cluster.url, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done
    return done


def start_nodes(cluster: Cluster, *names: str) -> None:
    for name in names:
        cluster.start("--stop-grace", "0", "--heartbeat", "0.2", node_id=name, pace={"refresh_seconds": 0.3})
    wait_until(lambda: len(cluster.store.nodes()) == len(names), 20, "the nodes did not come")


def client_of(cluster: Cluster, unread: list[str]) -> Client:
    client = Client(cluster.store, None, "me@here")
    client.queues._on_unread = unread.extend
    return client


def see_through(cluster: Cluster, queue: str) -> None:
    """A task runs: the nodes have read that the queue is free."""
    (task_id,) = cluster.push(queue, {})
    cluster.wait_for_status(task_id, Status.CONCLUDED)


@pytest.mark.parametrize("changes", [{"maxthreads": 0}, {"maxtotal": 0}, {"nodes_pin": ["n9"]}, None])
def test_nothing_is_claimed_once_a_pause_has_returned(cluster: Cluster, changes: dict[str, Any] | None) -> None:
    """Four of five tasks that were pushed right after a pause used to run: nodes read the queues once a second."""
    cluster.plugin("Quick", "true")
    queue = cluster.queue("Quick")
    start_nodes(cluster, "n1", "n2")
    unread: list[str] = []
    queues = client_of(cluster, unread).queues
    paused: list[Any] = []
    for _ in range(3):
        see_through(cluster, queue)
        if changes is None:
            queues.pause(queue)
        else:
            queues.set(queue, **changes)
        ids = cluster.push(queue, *({} for _ in range(5)))
        see_other_work_done(cluster)
        assert [cluster.task(one).status for one in ids] == [Status.CREATED] * 5
        cluster.store.delete_tasks(ids)
        paused += ids
        if changes is None:
            queues.resume(queue)
        else:
            queues.set(queue, **dict.fromkeys(changes))
    assert unread == [] and len(paused) >= 15


def see_other_work_done(cluster: Cluster) -> None:
    """Both nodes have claimed since: what could be claimed would have been."""
    if cluster.store.find_queue("other") is None:
        cluster.queue("Quick", "other")
    cluster.wait_for_status(cluster.push("other", {})[0], Status.CONCLUDED)


def test_a_drained_node_claims_nothing_once_the_command_has_returned(cluster: Cluster) -> None:
    cluster.plugin("Quick", "true")
    queue = cluster.queue("Quick")
    start_nodes(cluster, "n1")
    nodes = client_of(cluster, []).nodes
    for _ in range(3):
        see_through(cluster, queue)
        asked = nodes.drain("n1")
        ids = cluster.push(queue, *({} for _ in range(5)))
        assert asked.is_confirmed
        beats = cluster.store.get_node("n1")
        wait_until(lambda before=beats: marks(cluster) != before.heartbeat_mark, 20, "no heartbeat")
        assert [cluster.task(one).status for one in ids] == [Status.CREATED] * 5
        nodes.resume("n1")


def marks(cluster: Cluster) -> object:
    found = cluster.store.get_node("n1")
    return None if found is None else found.heartbeat_mark


def test_a_node_that_cannot_confirm_a_pause_is_named(cluster: Cluster) -> None:
    """One of an older version has no `queues_read`; one of another program claims nothing of this one's queues."""
    cluster.plugin("Quick", "true")
    queue = cluster.queue("Quick")
    document = {"session": "s", "version": "disbatch-host 0.1.0", "state": "running", "heartbeat": {"pid": 1}}
    assert cluster.store.put_node({"_id": "old", **document}, replacing=None)
    assert cluster.store.put_node({"_id": "perl", **document, "version": "Disbatch 4"}, replacing=None)
    start_nodes_beside(cluster)
    began = time.monotonic()
    done = command(cluster, "queue", "pause", queue)
    assert time.monotonic() - began < 8
    assert "1 node has not confirmed" in done.stderr and "before: old;" in done.stderr
    assert "perl" not in done.stderr and "n1" not in done.stderr
    ids = cluster.push(queue, {}, {})
    assert cluster.store.find_queue(queue).paused is not None  # type: ignore[union-attr]
    unread: list[str] = []
    Queues(cluster.store, "me@here", on_unread=unread.extend, within_seconds=3.0).set(queue, maxtotal=3)
    assert unread == ["old"]
    shown = json.loads(command(cluster, "--json", "node", "show", "n1").stdout)
    assert shown["queues_read"] == shown["requests"]["queues"]["token"]
    assert [cluster.task(one).status for one in ids] == [Status.CREATED] * 2
    assert "queues" not in command(cluster, "node", "show", "n1").stdout.split()


def start_nodes_beside(cluster: Cluster) -> None:
    cluster.start("--stop-grace", "0", pace={"refresh_seconds": 0.1})
    wait_until(lambda: cluster.store.get_node("n1") is not None, 20, "the node did not come")


def test_nobody_waits_where_no_node_lives(cluster: Cluster) -> None:
    queue = cluster.queue("Quick")
    unread: list[str] = []
    queues = client_of(cluster, unread).queues
    began = time.monotonic()
    queues.pause(queue)
    queues.set(queue, description="of no concern to a node")
    assert unread == [] and time.monotonic() - began < 2

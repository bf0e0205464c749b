"""Nodes are drained, resumed and stopped from any machine, by their documents."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from subprocess import Popen

import pytest

from acceptance.conftest import Site
from disbatch_host.documents import local_time, transitions
from disbatch_host.documents.changes import RunKey, Want
from disbatch_protocol.status import Status
from helpers.processes import wait_until


@pytest.fixture
def second_node(site: Site) -> Iterator[Popen[bytes]]:
    with site.node("--heartbeat", "0.2", node_id="n2") as process:
        wait_until(lambda: site.store.get_node("n2"), 20, "node n2 never came")
        yield process


def state_of(site: Site, node_id: str) -> str | None:
    found = site.store.get_node(node_id)
    return None if found is None else found.state


def test_a_drained_node_finishes_what_runs_and_claims_nothing_until_it_is_resumed(
    site: Site, tmp_path: Path, second_node: Popen[bytes]
) -> None:
    queue = site.queue("--pin", "n2")
    running = site.push(queue, "-p", "do=until", "-p", f"file={tmp_path}/go")
    site.begun(running)
    site.fine("node", "drain", "n2", "--reason", "new disk")
    wait_until(lambda: state_of(site, "n2") == "draining", 20)
    (document,) = site.fine("node", "list", "--state", "draining", "--json").json
    assert (document["_id"], document["requests"]["drain"]["why"]) == ("n2", "new disk")
    assert "draining" in site.fine("node", "list").out and "new disk" in site.fine("node", "show", "n2").out
    waiting, elsewhere = site.push(queue), site.push(site.queue())
    site.wait_for(elsewhere, Status.CONCLUDED)
    assert (site.task(running).status, site.task(waiting).status) == (Status.RUNNING, Status.CREATED)
    (tmp_path / "go").touch()
    (document,) = site.fine("node", "drain", "n2", "--wait", "--json").json
    assert document["state"] == "drained"
    assert site.task(running).status == Status.CONCLUDED
    assert site.task(waiting).status == Status.CREATED
    site.fine("node", "resume", "n2")
    site.wait_for(waiting, Status.CONCLUDED)
    wait_until(lambda: state_of(site, "n2") == "running", 20)
    assert "is not drained" in site.fine("node", "resume", "n2").err


def test_a_node_is_stopped_and_sees_through_what_runs(site: Site, tmp_path: Path, second_node: Popen[bytes]) -> None:
    queue = site.queue("--pin", "n2")
    running = site.push(queue, "-p", "do=until", "-p", f"file={tmp_path}/go")
    site.begun(running)
    site.fine("node", "stop", "n2", "--reason", "upgrade")
    wait_until(lambda: state_of(site, "n2") == "stopping", 20)
    assert "is stopping and cannot be resumed" in site.refused(1, "node", "resume", "n2")
    waiting = site.push(queue)
    (tmp_path / "go").touch()
    wait_until(lambda: site.store.get_node("n2") is None, 20)
    assert second_node.wait(20) == 0
    assert (site.task(running).status, site.task(waiting).status) == (Status.CONCLUDED, Status.CREATED)


def test_stop_waits_for_the_end_of_a_node(site: Site, second_node: Popen[bytes]) -> None:
    site.fine("node", "stop", "n2", "--wait")
    assert site.store.get_node("n2") is None
    assert second_node.wait(20) == 0


def test_a_node_that_cannot_hear_is_said(site: Site) -> None:
    foreign = {"_id": "perl1", "version": "Disbatch 4.2", "heartbeat": {"pid": 1}}
    settings = {"heartbeat_seconds": 0.001, "dead_after_seconds": -1}  # its heartbeat is always too old
    dead = {"_id": "dead1", "version": "disbatch-host 0.1.0", "settings": settings, "heartbeat": {"pid": 1}}
    try:
        assert site.store.put_node(foreign, replacing=None)
        line = site.refused(1, "node", "drain", "perl1")
        assert "belongs to another program (Disbatch 4.2)" in line
        for command in ("drain", "resume", "stop"):
            if site.store.get_node("dead1") is None:  # a living node may take it away
                assert site.store.put_node(dead, replacing=None)
            assert "is not alive" in site.refused(1, "node", command, "dead1")
        assert "did you mean 'perl1'" in site.refused(4, "node", "stop", "perl2")
        assert "perl1" in site.fine("node", "list", "--alive").out
    finally:
        site.store.remove_node("perl1", None)
        site.store.remove_node("dead1", None)


def test_a_node_that_is_away_is_shown_with_its_runs_and_until_when(site: Site) -> None:
    until = site.store.now() + timedelta(minutes=10)
    gone = {
        "_id": "gone1", "version": "disbatch-host 0.2.0", "session": "s", "state": "away",
        "heartbeat": {"pid": 1, "queues": [], "running": 2, "kept": 2}, "settings": {"dead_after_seconds": -1},
        "away": {"until": until, "by": "ann@here", "why": "upgrade"},
    }  # fmt: skip
    shown = local_time.shown(until, "seconds")
    assert site.store.put_node(gone, replacing=None)
    try:
        for command in (("node", "list"), ("node", "list", "--state", "away"), ("status",)):
            (line,) = [one for one in site.fine(*command).out.splitlines() if one.startswith("gone1")]
            assert f"away until {shown}" in line and "2 kept" in line
        out = site.fine("node", "show", "gone1").out
        assert f"away until {shown}" in out and "2 runs there, as of " in out and "(upgrade; ann@here)" in out
        (document,) = site.fine("node", "show", "gone1", "--json").json
        assert document["alive"] is False and document["away"]["why"] == "upgrade" and document["away_seconds"] > 500
        assert "gone1" not in site.fine("node", "list", "--dead").out
        assert "gone1 is away until" in site.refused(1, "node", "stop", "gone1")
    finally:
        site.store.remove_node("gone1", "s")


def test_a_dead_node_is_forgotten_when_nothing_is_in_its_hands(site: Site) -> None:
    line = site.refused(1, "node", "delete", "n1")
    assert "node n1 is alive" in line and "`disbatch-host node stop n1 --wait` ends it" in line
    queue = site.queue(class_name="nowhere")
    task_id = site.push(queue)
    settings = {"heartbeat_seconds": 0.001, "dead_after_seconds": -1}  # its heartbeat is always too old
    dead = {"_id": "dead1", "version": "disbatch-host 0.1.0", "settings": settings, "heartbeat": {"pid": 1}}
    assert site.store.put_node(dead, replacing=None)
    (task,) = site.store.claim("dead1", [Want(queue, 1)], "token")
    assert "1 task is still in its hands" in site.refused(1, "node", "delete", "dead1")
    now = site.store.now()
    site.store.commit([transitions.unclaim_change(RunKey(task.id, "dead1", "token"), now=now)])
    assert site.task(task_id).status == Status.CREATED
    assert site.fine("node", "delete", "dead1", "--json").json == [{"_id": "dead1", "deleted": True}]
    assert [one["_id"] for one in site.fine("node", "list", "--json").json] == ["n1"]
    assert "did you mean" not in site.refused(4, "node", "delete", "dead1")

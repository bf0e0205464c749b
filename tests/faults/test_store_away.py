"""The database goes away under a running node, and comes back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.errors import ExitCode
from disbatch_host.store.open import open_store
from disbatch_protocol.status import Status
from helpers import nodes, supervisors
from helpers.mongod import Mongod
from helpers.processes import wait_until

pytestmark = pytest.mark.mongodb


@pytest.fixture
def server(own_mongod: Callable[..., Mongod]) -> Iterator[Mongod]:
    """One of its own: it is killed."""
    with own_mongod() as server:
        yield server


@pytest.fixture
def cluster(server: Mongod, tmp_path: Path) -> Iterator[nodes.Cluster]:
    url = f"{server.database_url('away')}&serverSelectionTimeoutMS=500"  # the node's own is 3.5 s
    store = open_store(url, SystemClock())
    store.open()
    with nodes.cluster(url, store, tmp_path) as one:
        yield one
    store.close()


@pytest.mark.parametrize("how", ["killed", "stopped for seconds"])
def test_running_tasks_go_on_and_what_they_say_is_written_when_it_is_back(
    cluster: nodes.Cluster, server: Mongod, how: str
) -> None:
    gate = cluster.directory / "gate"
    trace = cluster.directory / "trace"
    program = f"echo begun; while ! test -e {gate}; do sleep 0.1; done; echo said while it was away; echo x >>{trace}"
    cluster.plugin("Hold", program)
    (running,) = cluster.push(cluster.queue("Hold", maxthreads=1), {})
    (waiting,) = cluster.push("Hold", {})
    process = cluster.start("--heartbeat", "0.5")
    wait_until(lambda: cluster.task(running).document["stdout"] == "begun\n", 20, "did not begin")
    if how == "killed":
        server.kill()
    else:
        server.signal(signal.SIGSTOP)
    gate.touch()
    wait_until(trace.exists, 20, "the running task did not go on")
    if how == "killed":
        wait_until(lambda: "away" in cluster.log() or "does not answer" in cluster.log(), 60, "the node says nothing")
        server.start()
    else:
        server.signal(signal.SIGCONT)
    task = cluster.wait_for_status(running, Status.CONCLUDED, within_seconds=60)
    assert task.document["stdout"] == "begun\nsaid while it was away\n"
    cluster.wait_for_status(waiting, Status.CONCLUDED, within_seconds=60)
    assert trace.read_text() == "x\nx\n"
    process.terminate()
    assert process.wait(30) == 0


def test_a_node_does_not_start_without_its_database(cluster: nodes.Cluster, server: Mongod) -> None:
    server.kill()
    assert cluster.start().wait(20) == 3
    assert "cannot be reached" in cluster.log()
    server.start()  # the fixture looks at the documents once more


def test_a_stop_while_the_database_is_away_ends_at_the_third_signal(cluster: nodes.Cluster, server: Mongod) -> None:
    cluster.plugin("Hold", "echo begun; sleep 600")
    (task_id,) = cluster.push(cluster.queue("Hold"), {})
    process = cluster.start()
    wait_until(lambda: cluster.task(task_id).document["stdout"] == "begun\n", 20, "did not begin")
    server.kill()
    for said in ("run on to their end", "asked to stop"):
        process.send_signal(signal.SIGTERM)
        wait_until(lambda said=said: said in cluster.log(), 20, f"the node did not say: {said}")
    wait_until(lambda: "the store is away" in cluster.log(), 60, "the node does not say that the store is away")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 3
    server.start()
    assert cluster.task(task_id).status == Status.RUNNING  # settled when the node starts again
    cluster.plugin("Hold", "echo never")
    cluster.run()
    assert cluster.task(task_id).status == Status.ORPHANED


@supervisors.usable()
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_node_leaves_its_runs_while_the_database_is_away(cluster: nodes.Cluster, server: Mongod, how: str) -> None:
    """It cannot say that it is away, and says that; the next one goes on with them all the same."""
    cluster.keep_runs()
    gate = cluster.directory / "gate"
    cluster.plugin("Hold", f"echo begun; while ! test -e {gate}; do sleep 0.1; done; echo done")
    (task_id,) = cluster.push(cluster.queue("Hold"), {})
    options = ("--dead-after", "10m", "--away-for", "10m")
    process = cluster.start("--heartbeat", "0.5", *options)
    wait_until(lambda: cluster.task(task_id).document["stdout"] == "begun\n", 20, "did not begin")
    if how == "killed":
        server.kill()
    else:
        server.signal(signal.SIGSTOP)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(30) == ExitCode.STORE
    assert "1 tasks run on without it; that cannot be told to other nodes" in cluster.log()
    if how == "killed":
        server.start()
    else:
        server.signal(signal.SIGCONT)
    process = cluster.start(*options)
    wait_until(lambda: cluster.task(task_id).run.get("adopted"), 60, "nobody goes on with it")
    gate.touch()
    assert cluster.wait_for_status(task_id, Status.CONCLUDED).document["stdout"] == "begun\ndone\n"
    process.terminate()
    assert process.wait(30) == 0

"""The file of a SQLite store is deleted, moved or replaced under a node: it does not go on in one that nobody sees."""

from __future__ import annotations

import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disbatch_protocol.status import Status
from helpers import nodes
from helpers.lost_files import delete_all, move_directory, replace
from helpers.processes import assert_group_is_gone, wait_until

HOLD = 'echo begun; while ! test -e {gate}; do sleep 0.1; done; echo "$DISBATCH_TASK_ID" >>{trace}'


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[nodes.Cluster]:
    with nodes.cluster_on_sqlite(tmp_path / "store" / "test.db", tmp_path) as one:
        yield one
        # What is at its path now may be another file: the documents were looked at where it matters.
        one.store.close()
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        one.store.open()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def health(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("harm", [delete_all, replace, move_directory])
def test_a_node_says_within_two_seconds_that_its_file_is_gone_and_ends_with_3(
    cluster: nodes.Cluster, harm: Callable[[Path], None]
) -> None:
    """It went on in the deleted file, answered 200 at /healthz, and what its tasks ended with was lost in silence."""
    file, port = cluster.directory / "store" / "test.db", free_port()
    gate, trace = cluster.directory / "gate", cluster.directory / "trace"
    cluster.plugin("Hold", HOLD.format(gate=gate, trace=trace))
    (running,) = cluster.push(cluster.queue("Hold", maxthreads=1), {})
    process = cluster.start("--metrics", f"127.0.0.1:{port}", pace={"lost_store_seconds": 0.5})
    wait_until(lambda: cluster.task(running).document["stdout"] == "begun\n", 20, "did not begin")
    wait_until(lambda: health(port) == 200, 20, "no heartbeat was written")
    began = time.monotonic()
    harm(file)
    wait_until(lambda: health(port) == 503, 5, "the node says nothing")
    assert time.monotonic() - began < 3
    assert cluster.log().count("the store is gone, nothing is claimed until it works again") == 1
    assert process.poll() is None, "its task is running"
    gate.touch()
    assert process.wait(40) == 3
    assert trace.read_text() == f"{running}\n"
    log = cluster.log()
    assert "this node ends, since its store is lost" in log and "changes could not be written" in log
    assert log.count("nothing is claimed until it works again") == 1
    assert_group_is_gone(process.pid)


def test_a_node_whose_file_comes_back_goes_on_and_has_lost_nothing(cluster: nodes.Cluster) -> None:
    file, aside = (cluster.directory / "store" / name for name in ("test.db", "aside.db"))
    gate, trace = cluster.directory / "gate", cluster.directory / "trace"
    cluster.plugin("Hold", HOLD.format(gate=gate, trace=trace))
    running, waiting = cluster.push(cluster.queue("Hold", maxthreads=1), {}, {})
    process = cluster.start()
    wait_until(lambda: cluster.task(running).document["stdout"] == "begun\n", 20, "did not begin")
    file.rename(aside)
    wait_until(lambda: "the store is gone" in cluster.log(), 5, "the node says nothing")
    gate.touch()
    wait_until(lambda: "running tasks go on and their output is kept" in cluster.log(), 10, "its end is not kept")
    aside.rename(file)
    for task_id in (running, waiting):
        assert cluster.wait_for_status(task_id, Status.CONCLUDED).run["attempt"] == 1
    assert sorted(trace.read_text().split()) == sorted([str(running), str(waiting)])
    wait_until(lambda: "the store takes writes again" in cluster.log(), 20, "it does not say that all is well")
    process.terminate()
    assert process.wait(30) == 0


def test_an_idle_node_that_is_stopped_while_its_file_is_gone_ends_with_3_at_once(cluster: nodes.Cluster) -> None:
    process = cluster.start()
    wait_until(lambda: cluster.store.get_node("n1"), 20, "node n1 never came")
    delete_all(cluster.directory / "store" / "test.db")
    process.terminate()
    assert process.wait(20) == 3
    assert "could not be released" in cluster.log()

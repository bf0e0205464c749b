"""Processes of a run that its node may not end: what is said of them, and that no other attempt begins beside them.

A node of root that has given up the right to signal other users' processes is what a node of any other user is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import skip_or_fail
from disbatch_host.client.client import Client
from disbatch_host.documents.records import Task
from disbatch_host.process.facts import process_started
from disbatch_protocol.status import Status
from helpers import supervisors
from helpers.nodes import QUICK_TO_SEE, Cluster
from helpers.processes import wait_until

pytestmark = pytest.mark.timeout(180)

WITHOUT_KILL = ("setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill")
PACE = {**QUICK_TO_SEE, "left_over_seconds": 0.2}
# Twice at most: the second time it ends at once.
LEAVES = """
echo "$$" >>"$DISBATCH_PLUGIN_DIR/starts"
[ "$(wc -l <"$DISBATCH_PLUGIN_DIR/starts")" = 2 ] && exit 0
setpriv --reuid=65534 --regid=65534 --clear-groups sleep 8 >/dev/null 2>&1 3>&- &
echo "$!" >"$DISBATCH_PLUGIN_DIR/left"
echo begun
sleep 60
"""


@pytest.fixture(autouse=True)
def _needs_root(require: Callable[[str], None]) -> None:
    require("setpriv")
    if os.geteuid() != 0:
        skip_or_fail("only root can start processes of another user")


def leave_something(cluster: Cluster, **manifest: Any) -> tuple[Any, Path]:
    """A task whose run is stopped after a moment, and the directory of its plugin."""
    home = cluster.plugin("Leaves", LEAVES, timeout="500ms", kill_grace="200ms", **manifest)
    (task_id,) = cluster.push(cluster.queue("Leaves"), {})
    return task_id, home


def left_by(home: Path) -> tuple[int, int]:
    """The process, and when it was started."""
    wait_until(lambda: (home / "left").exists() and (home / "left").read_text().strip(), 60, "it did not begin")
    pid = int((home / "left").read_text())
    started = process_started(pid)
    assert started is not None
    return pid, started


def starts(home: Path) -> int:
    return len((home / "starts").read_text().splitlines())


def held(cluster: Cluster, task_id: Any) -> Task:
    """The task, once its run has ended."""
    return cluster.wait_for_status(task_id, Status.BLOCKED, within_seconds=60)


def wait_for_the_second_start(home: Path, pid: int, started: int) -> None:
    def is_there() -> bool:
        again = starts(home) == 2
        assert not again or process_started(pid) != started, "another attempt beside what was left"
        return again

    wait_until(is_there, 60, "it is not tried again")


@pytest.mark.parametrize(
    ("store_url", "supervisor"),
    [
        pytest.param("sqlite", "connection", marks=supervisors.usable()),
        pytest.param("mongodb", "connection", marks=[supervisors.usable(), pytest.mark.mongodb]),
        ("sqlite", "no"),
    ],
    indirect=["store_url"],
)
def test_no_attempt_begins_beside_what_is_left_of_the_one_before(cluster: Cluster, supervisor: str) -> None:
    task_id, home = leave_something(cluster, retry={"max": 3, "delay": "100ms"})
    cluster.start(through=WITHOUT_KILL, env={"DISBATCH_SUPERVISOR": supervisor}, pace=PACE)
    pid, started = left_by(home)
    task = held(cluster, task_id)
    (left,) = task.run["left_over"]
    assert (left["pid"], left["pid_started"], left["user"]) == (pid, started, "nobody")
    assert task.run["reason"] == "timeout" and task.attempts[-1]["reason"] == "timeout"
    message = task.document["error"]["message"]
    assert f"process {pid} ({left['program']}, of user nobody) could not be ended" in message
    cluster.check_documents()
    with Client.open(cluster.url) as client:
        sentence = client.why(task_id).sentence
    assert f"its last run has left process {pid}" in sentence and "beside which no other begins" in sentence
    wait_for_the_second_start(home, pid, started)
    cluster.wait_for_status(task_id, Status.CONCLUDED, within_seconds=30)
    assert "nothing of its last run is left" in cluster.log()


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_run_that_is_not_tried_again_ends_at_once_and_names_what_is_left(cluster: Cluster) -> None:
    task_id, home = leave_something(cluster)
    cluster.start(through=WITHOUT_KILL, pace=PACE)
    pid, started = left_by(home)
    task = cluster.wait_for_status(task_id, Status.TERMINATED, within_seconds=60)
    assert [one["pid"] for one in task.run["left_over"]] == [pid]
    assert process_started(pid) == started


@supervisors.usable()
def test_the_next_life_of_the_node_holds_it_as_well_and_lets_it_go(cluster: Cluster) -> None:
    cluster.keep_runs()
    task_id, home = leave_something(cluster, idempotent=True, retry={"max": 3, "delay": "100ms"})
    first = cluster.start(through=WITHOUT_KILL, pace=PACE)
    pid, started = left_by(home)
    held(cluster, task_id)
    first.kill()
    first.wait(30)
    cluster.start("--force", through=WITHOUT_KILL, pace=PACE)
    wait_for_the_second_start(home, pid, started)
    cluster.wait_for_status(task_id, Status.CONCLUDED, within_seconds=30)

"""What a task's document and its reader are told of processes that the program has left."""

from __future__ import annotations

import os
import signal

from disbatch_host.process.facts import process_started
from disbatch_protocol.status import Status
from helpers.nodes import Cluster

LEAVES = """
setsid sleep 600 >/dev/null 2>&1 3>&- &
echo $!
sleep 0.3
"""


def test_it_is_ended_and_named(cluster: Cluster) -> None:
    cluster.plugin("Leaves", LEAVES)
    task = cluster.run_one(cluster.queue("Leaves"))
    assert task.status == Status.CONCLUDED
    (left,) = task.run["ended_with_it"]
    assert left["program"] == "sleep" and "left_running" not in task.run
    assert process_started(left["pid"]) is None
    cluster.check_documents()


def test_with_leave_running_it_is_counted_and_goes_on(cluster: Cluster) -> None:
    cluster.plugin("Leaves", LEAVES, protocol=2, leave_running=True)
    task = cluster.run_one(cluster.queue("Leaves"))
    assert (task.status, task.run["left_running"]) == (Status.CONCLUDED, 1) and "ended_with_it" not in task.run
    pid = int(task.document["stdout"])
    assert process_started(pid) is not None
    os.kill(pid, signal.SIGKILL)
    cluster.check_documents()

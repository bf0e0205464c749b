"""What a task's document and its reader are told of processes that the program has left."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from disbatch_host.process.facts import process_started
from disbatch_protocol.status import Status
from helpers.nodes import COMMAND, Cluster

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

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


def test_task_show_says_it(cluster: Cluster) -> None:
    for name, more in {"Leaves": {}, "Wants": {"protocol": 2, "leave_running": True}}.items():
        cluster.plugin(name, LEAVES.replace("sleep 600", "sleep 5"), **more)
        task = cluster.run_one(cluster.queue(name))
        shown = command("task", "show", str(task.id), "--store", cluster.url)
        if more:
            assert "1 process of it went on after it, as its plugin wants" in shown
        else:
            assert f"what it had left was ended with it: process {task.run['ended_with_it'][0]['pid']} (sleep" in shown


def command(*arguments: str) -> str:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=True).stdout

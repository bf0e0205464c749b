"""A run that says more on descriptor 3 than its supervisor keeps, and goes on with the next node: nothing that it has
asked for is missing, and nothing is done twice."""

from __future__ import annotations

from typing import Any

import pytest

from disbatch_protocol.status import Status
from helpers import forked, supervisors
from helpers.nodes import QUICK_TO_SEE, Cluster
from helpers.processes import wait_until

pytestmark = [supervisors.usable(), pytest.mark.timeout(180)]

KEPT = 2**24  # bytes of events that a node has its supervisor keep, at least
PROGRAM = r"""#!/usr/bin/env python3
import json, os, sys, time
from pathlib import Path
home = Path(os.environ["DISBATCH_PLUGIN_DIR"])
with (home / "starts").open("a") as file:
    file.write("started\n")
events = os.fdopen(3, "w", buffering=1)
def say(**event):
    events.write(json.dumps(event) + "\n")
def follow(number):
    say(type="tasks", tasks=[{"queue": "Later", "parameters": {"n": number}}])
follow(1)
events.write("no event\n")
for number in range(45):
    say(type="log", level="info", message=f"{number} " + "x" * 500_000)
follow(2)
count = 0
while not (home.parent / "go").exists():
    count += 1
    say(type="progress", value=count / 1e6)
    time.sleep(0.05)
follow(3)
"""


@pytest.fixture
def keeping(cluster: Cluster) -> Cluster:
    """A cluster whose nodes have homes."""
    cluster.keep_runs()
    return cluster


def start(cluster: Cluster) -> forked.Started:
    return cluster.start(pace=QUICK_TO_SEE)


def test_what_a_run_has_asked_for_is_done_once_although_it_is_not_said_again(keeping: Cluster) -> None:
    cluster = keeping
    home = cluster.plugin("Says", PROGRAM, file="says.py")
    cluster.queue("Later", maxthreads=0)
    (task_id,) = cluster.push(cluster.queue("Says"), {})

    def progress() -> Any:
        return (cluster.task(task_id).document.get("progress") or {}).get("value", 0)

    for life in (1, 2):
        node = start(cluster)
        wait_until(lambda: cluster.task(task_id).run.get("pending", {}).get("event_bytes", 0) > KEPT, 60)
        before = progress()
        # After some more writes the supervisor has been told that it need not keep the first ones.
        wait_until(lambda before=before: progress() > before + 30e-6, 60, "it does not go on")
        if life == 2:
            assert len(cluster.task(task_id).run["adopted"]) == 1
        node.kill()
        node.wait()
    start(cluster)
    wait_until(lambda: len(cluster.task(task_id).run.get("adopted", ())) == 2, 60)
    (cluster.plugins / "go").touch()
    task = cluster.wait_for_status(task_id, Status.CONCLUDED, within_seconds=60)
    assert (home / "starts").read_text() == "started\n"
    # On MongoDB, follow-up tasks are created right after the end is written.
    wait_until(lambda: len(cluster.tasks(queue="Later")) >= 3, 30, "they are missing")
    assert sorted(one.parameters["n"] for one in cluster.tasks(queue="Later")) == [1, 2, 3]
    assert "pending" not in task.run and task.run["event_errors"]["count"] == 1
    messages = [entry["message"].split()[0] for entry in task.document["log"]]
    assert messages == [str(number) for number in range(45 - len(messages), 45)]
    cluster.check_documents()

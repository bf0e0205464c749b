"""A node that ends by an error of its own: its children end with it, and others settle what it had.

Such a node used to remove its document on its way out: its running tasks stayed Running for ever, since nobody looked
for them, and their programs ran on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from disbatch_host.process import leftovers
from disbatch_protocol.status import Status
from helpers import failing_node, supervisors
from helpers.nodes import Cluster
from helpers.processes import assert_group_is_gone, wait_until
from helpers.stores import one_store_each


def start_node(cluster: Cluster, node_id: str, trigger: Path, place: str) -> subprocess.Popen[str]:
    assert failing_node.__file__ is not None
    command = [sys.executable, failing_node.__file__, node_id, cluster.url, str(cluster.plugins), str(trigger), place]
    if cluster.state is not None:
        command.append(str(cluster.state))
    with (cluster.directory / f"{node_id}.log").open("a") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True, env=os.environ, start_new_session=True
        )
    cluster.processes.append(process)
    return process


@one_store_each("store_url", "place", ["store", "loop"])
def test_a_node_that_ends_by_an_internal_error_leaves_no_process_and_others_settle_its_tasks(
    cluster: Cluster, tmp_path: Path, place: str
) -> None:
    cluster.plugin("Long", "echo on; exec sleep 300", idempotent=True, kill_grace=30)
    cluster.plugin("Once", "echo on; exec sleep 300", kill_grace=30)
    (again,), (once,) = (cluster.push(cluster.queue(name), {}) for name in ("Long", "Once"))
    node = start_node(cluster, "n1", tmp_path / "trigger", place)
    wait_until(lambda: all(task.document["stdout"] == "on\n" for task in cluster.tasks()), 30, "they do not run")
    groups = [cluster.task(task_id).run["pid"] for task_id in (again, once)]
    (tmp_path / "trigger").touch()
    assert node.wait(30) != 0
    for group in groups:
        assert_group_is_gone(group, within_seconds=1)
    assert cluster.store.get_node("n1") is not None, cluster.log()

    second = start_node(cluster, "n2", tmp_path / "trigger", "nowhere")
    wait_until(
        lambda: cluster.task(again).status == Status.RUNNING and cluster.task(again).node == "n2", 30, "it waits"
    )
    task = cluster.task(once)
    assert task.status in (Status.ORPHANED, Status.TERMINATED) and task.document["error"]["code"] in (
        "lost",
        "shutdown",
    )
    second.terminate()
    assert second.wait(60) == 0
    assert not list(leftovers.find_runs("n2", {str(again)}))


@supervisors.usable()
@one_store_each("store_url", "place", ["store", "loop"])
def test_the_runs_of_a_node_that_has_a_home_go_on_and_it_finds_them_again(
    cluster: Cluster, tmp_path: Path, place: str
) -> None:
    cluster.keep_runs()
    cluster.plugin("Once", 'echo on; while ! [ -e "$DISBATCH_PLUGIN_DIR/go" ]; do sleep 0.1; done; echo off')
    (once,) = cluster.push(cluster.queue("Once"), {})
    node = start_node(cluster, "n1", tmp_path / "trigger", place)
    wait_until(lambda: cluster.task(once).document["stdout"] == "on\n", 30, "it does not run")
    before = cluster.task(once).run
    (tmp_path / "trigger").touch()
    assert node.wait(30) != 0
    assert leftovers.is_alive(before["pid"], before["pid_started"])
    assert cluster.store.get_node("n1") is not None, cluster.log()
    (tmp_path / "trigger").unlink(missing_ok=True)
    second = start_node(cluster, "n1", tmp_path / "trigger", "nowhere")
    wait_until(lambda: cluster.task(once).run.get("adopted"), 30, "nobody goes on with it")
    (cluster.plugins / "Once" / "go").touch()
    task = cluster.wait_for_status(once, Status.CONCLUDED)
    assert (task.document["stdout"], task.run["pid"], task.run["attempt"]) == ("on\noff\n", before["pid"], 1)
    second.terminate()
    assert second.wait(60) == 0

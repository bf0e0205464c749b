"""The supervisor of a node's runs ends, or stands still: its runs are settled, and nothing else of the node notices."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from disbatch_host.documents.changes import RunChange, RunKey
from disbatch_host.process import facts, leftovers
from disbatch_protocol.status import Status
from helpers import supervisors
from helpers.errors import plain
from helpers.nodes import QUICK_TO_SEE, Cluster
from helpers.processes import stop, wait_until
from helpers.supervisors import children_of, name_of, supervisor_of

pytestmark = supervisors.usable()
# What has left its session outlives the shell, unless it is looked for.
ESCAPES = '[ "$DISBATCH_ATTEMPT" = 1 ] || exit 0; setsid sleep 600 & echo begun; sleep 600'
WORKER = r"""#!/usr/bin/env python3
import json, os, sys, time
events = os.fdopen(3, "w", buffering=1)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        events.write('{"type": "ready", "protocol": 1}\n')
    elif message["type"] == "task":
        print("begun", flush=True)
        time.sleep(message["task"]["parameters"].get("seconds", 0))
        events.write('{"type": "done", "exit": 0}\n')
"""


def is_running(pid: int) -> bool:
    return facts.process_started(pid) is not None


def left_of(*task_ids: Any) -> list[int]:
    return [pid for pid, _, _ in leftovers.find_runs("n1", {str(one) for one in task_ids})]


def wait_until_begun(cluster: Cluster, *task_ids: Any) -> None:
    for task_id in task_ids:
        wait_until(lambda one=task_id: "begun" in cluster.task(one).document.get("stdout", ""), 30, "it did not begin")


def test_what_runs_when_it_is_killed_is_lost_and_the_node_goes_on(cluster: Cluster) -> None:
    cluster.plugin("Once", ESCAPES)
    cluster.plugin("Again", ESCAPES, idempotent=True)
    cluster.plugin("W", WORKER, file="w.py", mode="worker")
    cluster.plugin("Quick", "echo ran")
    (once,) = cluster.push(cluster.queue("Once"), {})
    (again,) = cluster.push(cluster.queue("Again"), {})
    worker = cluster.queue("W")
    (held,) = cluster.push(worker, {"seconds": 600})
    node = cluster.start(pace=QUICK_TO_SEE)
    daemon = cluster.directory / "daemon"
    leaves = f"setsid sh -c 'echo $$ >{daemon}; exec sleep 600' >/dev/null 2>&1 3>&- </dev/null &"
    waits = f"{leaves} while ! [ -s {daemon} ]; do sleep 0.1; done"
    cluster.plugin("Daemon", waits, protocol=2, leave_running=True)
    (over,) = cluster.push(cluster.queue("Daemon"), {})
    cluster.wait_for_status(over, Status.CONCLUDED)
    wait_until_begun(cluster, once, again, held)
    supervisor = supervisor_of(node)
    os.kill(supervisor, signal.SIGKILL)

    lost = cluster.wait_for_status(once, Status.ORPHANED)
    assert plain(lost.document["error"]) == {
        "code": "lost",
        "message": "disbatch-host: the supervisor of its runs ended while this task ran; it is not known whether it "
        "did its work, and its plugin does not say that running it twice does no harm",
    }
    assert lost.run["reason"] == "lost" and lost.document["stdout"] == "begun\n"
    done = cluster.wait_for_status(again, Status.CONCLUDED)
    assert done.run["attempt"] == 2
    assert done.attempts[0]["error"]["message"].endswith("ended while this task ran; it will be run again")
    assert cluster.wait_for_status(held, Status.ORPHANED).run["reason"] == "lost"
    assert not left_of(once, again, held)
    assert is_running(int(daemon.read_text()))
    os.kill(int(daemon.read_text()), signal.SIGKILL)
    # It has another supervisor, which runs what comes.
    assert supervisor_of(node) != supervisor
    more = cluster.push(worker, {}) + cluster.push(cluster.queue("Quick"), {})
    for task_id in more:
        cluster.wait_for_status(task_id, Status.CONCLUDED)
    assert node.poll() is None
    node.terminate()
    assert node.wait(30) == 0
    assert not [pid for pid in children_of(os.getpid()) if name_of(pid) == "sleep"]


def test_a_task_that_is_being_stopped_ends_as_stopped_although_its_supervisor_ends_meanwhile(cluster: Cluster) -> None:
    cluster.plugin("Deaf", "trap '' TERM; echo begun; while :; do sleep 0.1; done", kill_grace="60s")
    (task_id,) = cluster.push(cluster.queue("Deaf"), {})
    node = cluster.start(pace=QUICK_TO_SEE)
    wait_until_begun(cluster, task_id)
    supervisor = supervisor_of(node)
    stop(supervisor)
    for said in ("run on to their end", "asked to stop now"):
        node.terminate()
        wait_until(lambda said=said: said in cluster.log(), 20, "the stop was not heard")
    os.kill(supervisor, signal.SIGKILL)
    cluster.wait_for_status(task_id, Status.TERMINATED)
    assert node.wait(30) == 0
    assert not left_of(task_id)


def test_one_that_stands_still_loses_nothing_and_nothing_is_claimed_meanwhile(cluster: Cluster) -> None:
    cluster.plugin("Waits", 'while ! [ -e "$DISBATCH_PLUGIN_DIR/go" ]; do sleep 0.1; done; echo begun')
    cluster.plugin("Quick", "echo ran")
    queue = cluster.queue("Waits", maxthreads=2)
    (running,) = cluster.push(queue, {})
    node = cluster.start(pace=QUICK_TO_SEE)
    cluster.wait_for_status(running, Status.RUNNING)
    supervisor = supervisor_of(node)
    wait_until(lambda: left_of(running), 20, "it did not begin")
    stop(supervisor)
    try:
        wait_until(lambda: "does not answer" in cluster.log(), 30, "nothing is said")
        shown = cluster.store.get_node("n1")
        (waiting,) = cluster.push(cluster.queue("Quick"), {})
        wait_until(lambda: troubles_of(cluster), 20, "the node's document does not say it")
        assert shown is not None and cluster.task(waiting).status == Status.CREATED
        (cluster.plugins / "Waits" / "go").touch()
        assert cluster.task(running).status == Status.RUNNING
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert cluster.wait_for_status(running, Status.CONCLUDED).run["attempt"] == 1
    cluster.wait_for_status(waiting, Status.CONCLUDED)
    assert supervisor_of(node) == supervisor


def troubles_of(cluster: Cluster) -> list[str]:
    node = cluster.store.get_node("n1")
    troubles = [] if node is None else node.document.get("troubles", [])
    return [one["what"] for one in troubles if "does not answer" in one["what"]]


def test_a_start_that_is_read_too_late_is_made_again_where_the_task_is_still_the_nodes_own(cluster: Cluster) -> None:
    """The supervisor stood still for longer than `dead_after`/2: meanwhile another node may have taken the task."""
    cluster.plugin("Touch", 'echo "$DISBATCH_TASK_ID" >>"$DISBATCH_PLUGIN_DIR/starts"')
    queue = cluster.queue("Touch")
    node = cluster.start("--heartbeat", "0.3s", "--dead-after", "2s", pace=QUICK_TO_SEE)
    wait_until(lambda: "runs the programs of this node" in cluster.log(), 30)  # its test of itself is over
    supervisor = supervisor_of(node)
    stop(supervisor)
    try:
        kept, taken = cluster.push(queue, {}, {})
        for task_id in (kept, taken):
            cluster.wait_for_status(task_id, Status.RUNNING)
        claim = {"token": "another", "at": cluster.store.now()}
        key = RunKey(taken, "n1", cluster.task(taken).token)
        assert not cluster.store.commit([RunChange(key=key, statuses=(Status.RUNNING,), set={"claim": claim})])
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 1.5)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert cluster.wait_for_status(kept, Status.CONCLUDED).run["attempt"] == 1
    wait_until(lambda: f"task {taken} was taken over; it is not started here" in cluster.log(), 20, "nothing is said")
    assert (cluster.plugins / "Touch" / "starts").read_text() == f"{kept}\n"
    assert cluster.task(taken).status == Status.RUNNING
    assert node.poll() is None


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_node_that_may_not_use_it_says_so_and_runs_its_programs_itself(cluster: Cluster) -> None:
    cluster.plugin("Quick", "echo ran")
    (task_id,) = cluster.push(cluster.queue("Quick"), {})
    log = cluster.run(env={"DISBATCH_SUPERVISOR": "no"})
    assert cluster.task(task_id).status == Status.CONCLUDED
    assert "this node runs its programs itself, without disbatch-supervisor: DISBATCH_SUPERVISOR=no" in log


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_its_runs_end_with_their_node(cluster: Cluster) -> None:
    cluster.plugin("Once", ESCAPES)
    (task_id,) = cluster.push(cluster.queue("Once"), {})
    node = cluster.start(pace=QUICK_TO_SEE, env={"DISBATCH_SUPERVISOR": "connection"})
    wait_until_begun(cluster, task_id)
    supervisor = supervisor_of(node)
    node.kill()
    node.wait()
    wait_until(lambda: not left_of(task_id) and name_of(supervisor) == "", 20, "something is left")

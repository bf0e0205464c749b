"""A node ends, and its runs go on: the next life of the same node finds them again and records what became of each."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.cli import story
from disbatch_host.client.client import Client
from disbatch_host.client.history import Kind, history_of
from disbatch_host.documents.changes import RunChange, RunKey, TaskFilter
from disbatch_host.documents.records import Task
from disbatch_host.errors import ExitCode
from disbatch_host.plugin.catalog import Catalog
from disbatch_host.process import facts
from disbatch_protocol.status import Status, is_finished
from faults.test_kill import lines, marks
from helpers import forked, supervisors
from helpers.nodes import QUICK_TO_NOTICE, QUICK_TO_SEE, Cluster
from helpers.processes import wait_until
from helpers.supervisors import kill_with_supervisor, living_below

pytestmark = [supervisors.usable(), pytest.mark.timeout(180)]

# Each says that it has started, and again what it has come to: in a file, since the node may not be there to be told.
BEGIN = 'echo "$DISBATCH_TASK_ID $$" >>"$DISBATCH_PLUGIN_DIR/starts"'
WAIT = 'while ! [ -e "$DISBATCH_PLUGIN_DIR/../{0}" ]; do sleep 0.1; done'
SPEAK, GO = WAIT.format("speak"), WAIT.format("go")
STREAMS = f"""{BEGIN}
i=0
while ! [ -e "$DISBATCH_PLUGIN_DIR/../go" ]; do echo "line $i"; i=$((i+1)); sleep 0.1; done
echo "said $i"
"""
LIMITED = f"{BEGIN}; echo begun; exec sleep 600"
LARGE = f'{BEGIN}; echo begun; {SPEAK}; yes 0123456789abcde | head -c 8388608; : >"$DISBATCH_PLUGIN_DIR/said"; {GO}'
EXITS = f"{BEGIN}; echo begun; {SPEAK}; echo failing >&2; exit 3"
SAYS = f"""{BEGIN}
echo '{{"type":"log","message":"before"}}' >&3
echo '{{"type":"progress","value":0.25}}' >&3
{SPEAK}
echo '{{"type":"log","message":"meanwhile"}}' >&3
echo '{{"type":"set","fields":{{"mine":7}}}}' >&3
for n in 1 2; do echo '{{"type":"tasks","tasks":[{{"queue":"Later","parameters":{{"n":'$n'}}}}]}}' >&3; done
{GO}
echo '{{"type":"result","value":"all"}}' >&3
"""
WORKER = r"""#!/usr/bin/env python3
import json, os, sys, time
from pathlib import Path
events = os.fdopen(3, "w", buffering=1)
home = Path(os.environ["DISBATCH_PLUGIN_DIR"])
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        print("said to nobody", flush=True)
        events.write('{"type": "ready", "protocol": 1}\n')
    elif message["type"] == "task":
        task = message["task"]
        with (home / "starts").open("a") as file:
            file.write(f"{task['_id']} {os.getpid()}\n")
        print("begun", flush=True)
        events.write('{"type": "progress", "value": 0.5}\n')
        for name in task["parameters"]["waits_for"]:
            while not (home.parent / name).exists():
                time.sleep(0.02)
            print("found", name, flush=True)
        if task["parameters"].get("ends"):
            sys.exit(4)
        events.write('{"type": "result", "value": "of ' + task["_id"] + '"}\n')
        events.write('{"type": "done", "exit": 0}\n')
"""
CLOCKS_DIFFER = timedelta(seconds=0.5)  # at most, as nodes and this process know that of the store
LARGE_TEXT = (b"0123456789abcde\n" * 2**19)[: 2**23]


@pytest.fixture
def keeping(cluster: Cluster) -> Cluster:
    """A cluster whose nodes have homes."""
    cluster.keep_runs()
    return cluster


def starts_of(cluster: Cluster) -> Counter[str]:
    """How often each task's program was really started."""
    lines = [line for file in cluster.plugins.glob("*/starts") for line in file.read_text().splitlines()]
    return Counter(line.split()[0] for line in lines)


def pid_of(cluster: Cluster, task_id: Any) -> int:
    lines = [line.split() for file in cluster.plugins.glob("*/starts") for line in file.read_text().splitlines()]
    return next(int(pid) for task, pid in lines if task == str(task_id))


def start(cluster: Cluster) -> forked.Started:
    return cluster.start("--max", "30", pace=QUICK_TO_SEE)


def kill(node: forked.Started) -> None:
    node.kill()
    node.wait()


def is_gone(pid: int) -> bool:
    return facts.process_started(pid) is None


def went_on(task: Task) -> list[str]:
    told = dict(story.told(task, now=datetime.now(UTC)))
    assert [event.kind for event in history_of(task)].count(Kind.WENT_ON) == len(task.run["adopted"])
    return [line for name, line in told.items() if name == "went on"]


def test_twenty_runs_go_on_when_their_node_is_killed_and_the_next_one_tells_truly_how_they_ended(
    keeping: Cluster,
) -> None:
    cluster = keeping
    names = {"Streams": STREAMS, "Large": LARGE, "Exits": EXITS, "Says": SAYS}
    for name, program in names.items():
        cluster.plugin(name, program)
    cluster.plugin("Limited", LIMITED, timeout="8s")
    counts = {"Streams": 12, "Large": 2, "Exits": 2, "Says": 2, "Limited": 2}
    ids = {name: cluster.push(cluster.queue(name, maxthreads=20), *({},) * count) for name, count in counts.items()}
    every = [task_id for some in ids.values() for task_id in some]
    node = start(cluster)
    wait_until(lambda: len(starts_of(cluster)) == 20, 60, "not all have started")
    for task_id in ids["Streams"]:
        wait_until(lambda one=task_id: "line" in cluster.task(one).document["stdout"], 30, "nothing was written")
    for task_id in ids["Says"]:
        wait_until(lambda one=task_id: cluster.task(one).document.get("log"), 30, "no event was written")
    before = {task_id: cluster.task(task_id) for task_id in every}
    kill(node)

    (cluster.plugins / "speak").touch()
    for task_id in (*ids["Limited"], *ids["Exits"]):
        wait_until(lambda one=task_id: is_gone(pid_of(cluster, one)), 30, "it did not end")
    wait_until((cluster.plugins / "Large" / "said").exists, 30, "it has not said all")
    alive = [pid_of(cluster, one) for name in ("Streams", "Large", "Says") for one in ids[name]]
    assert not any(map(is_gone, alive))
    over = cluster.store.now() + CLOCKS_DIFFER
    wait_until(lambda: cluster.store.now() > over + CLOCKS_DIFFER, 10)
    node = start(cluster)
    for task_id in ids["Limited"]:
        task = cluster.wait_for_status(task_id, Status.TERMINATED, within_seconds=30)
        assert (task.run["reason"], task.document["error"]["code"]) == ("timeout", "timeout")
        assert 7.9 <= task.run["seconds"] <= 12 and task.run["ended"] < over
        assert task.document["stdout"] == "begun\n"
    for task_id in ids["Exits"]:
        task = cluster.wait_for_status(task_id, Status.FAILED, within_seconds=30)
        assert (task.run["reason"], task.run["exit_code"]) == ("exited", 3) and task.run["ended"] < over
        assert (task.document["stdout"], task.document["stderr"]) == ("begun\n", "failing\n")
    assert not any(map(is_gone, alive))
    (cluster.plugins / "go").touch()
    for task_id in every:
        wait_until(lambda one=task_id: is_finished(cluster.task(one).status), 60, "it never ended")

    for task_id in every:
        task = cluster.task(task_id)
        (adopted,) = task.run["adopted"]
        assert adopted["at"] >= over and adopted["away_seconds"] > 0
        assert (task.run["attempt"], task.run["pid"]) == (1, pid_of(cluster, task_id))
        assert task.run["token"] == before[task_id].run["token"] and not task.attempts
        assert task.run["session"] == before[task_id].run["session"] == 1
        assert len(went_on(task)) == 1 and "the node was restarted after" in went_on(task)[0]
    for task_id in ids["Streams"]:
        task = cluster.task(task_id)
        lines = task.document["stdout"].splitlines()
        assert lines == [*(f"line {n}" for n in range(len(lines) - 1)), f"said {len(lines) - 1}"]
        assert task.status == Status.CONCLUDED and task.run["seconds"] > 3
    for task_id in ids["Large"]:
        assert cluster.task(task_id).status == Status.CONCLUDED
        assert hashlib.sha256(cluster.output(task_id)).digest() == hashlib.sha256(b"begun\n" + LARGE_TEXT).digest()
    for task_id in ids["Says"]:
        task = cluster.task(task_id)
        assert (task.status, task.document["result"], task.document["mine"]) == (Status.CONCLUDED, "all", 7)
        assert [entry["message"] for entry in task.document["log"]] == ["before", "meanwhile"]
        assert task.document["log"][0]["time"] == before[task_id].document["log"][0]["time"]
        assert task.document["progress"] == {"value": 0.25}
    later = list(cluster.store.find_tasks(TaskFilter(queue="Later")))
    assert Counter((one.document["parent"], one.parameters["n"]) for one in later) == Counter(
        (str(task_id), n) for task_id in ids["Says"] for n in (1, 2)
    )
    assert set(starts_of(cluster).values()) == {1} and len(starts_of(cluster)) == 20
    assert "is killed" not in cluster.log()
    node.terminate()
    assert node.wait(30) == 0
    assert len(living_below(cluster.directory / "state")) <= 1


def one_running(cluster: Cluster, name: str, program: str, *, file: str = "run.sh", **manifest: Any) -> Any:
    """A task whose program has begun, on a node that is dead by now."""
    cluster.plugin(name, program, file=file, **manifest)
    (task_id,) = cluster.push(cluster.queue(name), {})
    node = start(cluster)
    wait_until(lambda: "begun" in cluster.task(task_id).document["stdout"], 30, "it did not begin")
    kill(node)
    return task_id


def finished(cluster: Cluster, task_id: Any) -> Task:
    wait_until(lambda: is_finished(cluster.task(task_id).status), 30, "it never ended")
    return cluster.task(task_id)


def test_a_run_is_concluded_by_the_manifest_that_it_began_with(keeping: Cluster) -> None:
    """An upgrade is when plugins change."""
    home = keeping.plugins / "Old"
    task_id = one_running(keeping, "Old", f"{BEGIN}; echo begun; {GO}; exit 7", exit_codes={"7": "success"})
    for file in ("run.sh", "plugin.json"):
        (home / file).unlink()
    node = start(keeping)
    (keeping.plugins / "go").touch()
    task = finished(keeping, task_id)
    assert (task.status, task.run["exit_code"], task.run["outcome"]) == (Status.CONCLUDED, 7, "success")
    node.terminate()
    assert node.wait(30) == 0


def test_the_work_directory_of_a_run_goes_with_its_end(keeping: Cluster) -> None:
    program = f'{BEGIN}; pwd; : >left; echo begun; {GO}; exit $(cat "$DISBATCH_PLUGIN_DIR/../go")'
    task_id = one_running(keeping, "Work", program, cwd="work", env={"TMPDIR": str(keeping.directory)})
    directory = Path(keeping.task(task_id).document["stdout"].splitlines()[0])
    assert (directory / "left").exists()
    node = start(keeping)
    (keeping.plugins / "go").write_text("0")
    assert finished(keeping, task_id).status == Status.CONCLUDED
    wait_until(lambda: not directory.exists(), 20, "it is still there")
    node.terminate()
    assert node.wait(30) == 0


def test_more_output_than_is_kept_has_the_same_gap_as_always(keeping: Cluster) -> None:
    program = f"{BEGIN}; echo begun; {SPEAK}; seq -f %015.0f 1 200000; : >$DISBATCH_PLUGIN_DIR/said; {GO}; echo last"
    task_id = one_running(keeping, "Large", program, max_output="1MiB")
    (keeping.plugins / "speak").touch()
    wait_until((keeping.plugins / "Large" / "said").exists, 30, "it has not said all")
    node = start(keeping)
    (keeping.plugins / "go").touch()
    task = finished(keeping, task_id)
    whole = b"begun\n" + b"".join(b"%015d\n" % number for number in range(1, 200_001)) + b"last\n"
    gap = f"disbatch-host: {len(whole) - 2**20} bytes of output are left out here (max_output is 1 MiB)\n".encode()
    assert task.run["output"]["stdout"]["dropped_bytes"] == len(whole) - 2**20
    head, tail = whole[: 2**19], whole[-(2**19) :]
    assert keeping.output(task_id) == head + (b"" if head.endswith(b"\n") else b"\n") + gap + tail
    node.terminate()
    assert node.wait(30) == 0


def test_a_run_whose_task_somebody_else_has_is_stopped(keeping: Cluster) -> None:
    task_id = one_running(keeping, "Taken", f"{BEGIN}; echo begun; {GO}")
    task = keeping.task(task_id)
    taken = RunChange(
        key=RunKey(task_id, "n1", task.token),
        statuses=(Status.RUNNING,),
        set={"node": "other", "claim": {"token": "another", "at": keeping.store.now()}},
    )
    assert not keeping.store.commit([taken])
    node = start(keeping)
    wait_until(lambda: is_gone(pid_of(keeping, task_id)), 30, "it was not stopped")
    task = keeping.task(task_id)
    assert (task.node, task.status) == ("other", Status.RUNNING) and "adopted" not in task.run
    assert "works on a task that is not this node's any more; it is stopped" in keeping.log()
    node.terminate()
    assert node.wait(30) == 0


def test_a_run_whose_task_the_store_does_not_have_is_left_alone_and_told(keeping: Cluster) -> None:
    task_id = one_running(keeping, "Gone", f'{BEGIN}; echo begun; {GO}; : >"$DISBATCH_PLUGIN_DIR/over"')
    assert keeping.store.delete_tasks([task_id]) == 1
    node = start(keeping)
    wait_until(
        lambda: f"works on task {task_id}, which the store does not have" in keeping.log(), 30, "nothing is said"
    )
    assert not is_gone(pid_of(keeping, task_id))
    (keeping.plugins / "go").touch()
    wait_until((keeping.plugins / "Gone" / "over").exists, 30, "it did not end by itself")
    node.terminate()
    assert node.wait(30) == 0


def test_a_request_to_cancel_reaches_a_run_that_went_on(keeping: Cluster) -> None:
    task_id = one_running(keeping, "Cancelled", f"{BEGIN}; echo begun; exec sleep 600")
    Client(keeping.store, Catalog(), "kim").cancel(str(task_id))
    node = start(keeping)
    task = keeping.wait_for_status(task_id, Status.CANCELLED, within_seconds=30)
    assert task.run["reason"] == "cancelled" and is_gone(pid_of(keeping, task_id))
    node.terminate()
    assert node.wait(30) == 0


def test_ends_that_a_supervisor_wrote_down_are_recorded_by_the_next_node(keeping: Cluster) -> None:
    """It was told to end while no node was there: its runs were stopped, and the file is what is left of it."""
    task_id = one_running(keeping, "Ends", f"{BEGIN}; echo begun; trap 'echo stopped; exit 5' TERM; {GO}")
    state = keeping.directory / "state"
    ((supervisor, _),) = living_below(state)
    os.kill(supervisor, signal.SIGTERM)
    wait_until(lambda: not living_below(state), 60, "it did not end")
    (ends,) = state.glob("*/ends")
    node = start(keeping)
    task = finished(keeping, task_id)
    assert (task.status, task.run["reason"], task.run["exit_code"]) == (Status.TERMINATED, "shutdown", 5)
    assert task.document["stdout"] == "begun\nstopped\n"
    wait_until(lambda: not ends.exists(), 30, "the file is still there")
    node.terminate()
    assert node.wait(30) == 0


def test_a_process_that_takes_the_id_by_force_goes_on_with_the_runs_and_the_older_one_leaves(keeping: Cluster) -> None:
    keeping.plugin("Waits", f"{BEGIN}; echo begun; {GO}; echo last")
    (task_id,) = keeping.push(keeping.queue("Waits"), {})
    older = start(keeping)
    wait_until(lambda: "begun" in keeping.task(task_id).document["stdout"], 30, "it did not begin")
    newer = keeping.start("--force", pace=QUICK_TO_SEE)
    assert older.wait(30) == ExitCode.NODE_ID_IN_USE
    wait_until(lambda: keeping.task(task_id).run.get("adopted"), 30, "nobody goes on with it")
    (keeping.plugins / "go").touch()
    task = finished(keeping, task_id)
    assert (task.status, task.document["stdout"]) == (Status.CONCLUDED, "begun\nlast\n")
    assert task.run["session"] == 1 and starts_of(keeping) == {str(task_id): 1}
    (later,) = keeping.push("Waits", {})
    assert finished(keeping, later).run["session"] == 2
    newer.terminate()
    assert newer.wait(30) == 0


def test_where_node_and_supervisor_are_killed_their_runs_are_lost_as_ever(keeping: Cluster) -> None:
    for name, idempotent in (("Once", False), ("Again", True)):
        keeping.plugin(name, f"{BEGIN}; echo begun; {GO}", idempotent=idempotent)
        keeping.push(keeping.queue(name), {})
    node = start(keeping)
    (once,), (again,) = keeping.tasks(queue="Once"), keeping.tasks(queue="Again")
    for task in (once, again):
        wait_until(lambda one=task: "begun" in keeping.task(one.id).document["stdout"], 30, "it did not begin")
    pids = [pid_of(keeping, task.id) for task in (once, again)]
    kill_with_supervisor(node)
    assert not any(map(is_gone, pids))
    node = start(keeping)
    assert keeping.wait_for_status(once.id, Status.ORPHANED).document["error"]["code"] == "lost"
    wait_until(lambda: starts_of(keeping)[str(again.id)] == 2, 30, "it was not started again")
    assert all(map(is_gone, pids))
    (keeping.plugins / "go").touch()
    assert finished(keeping, again.id).run["attempt"] == 2
    node.terminate()
    assert node.wait(30) == 0


def made_running(cluster: Cluster, queue: Any, supervisor: str, session: int) -> Any:
    """A task that an older process of node n1 has made Running, and has not had started: it ended at that moment."""
    now = cluster.store.now()
    run = {"token": "older", "attempt": 1, "started": now, "node": "n1", "idempotent": False}
    run |= {"supervisor": supervisor, "session": session}
    claim = {"token": "older", "at": now}
    (task_id,) = cluster.push(queue, {}, status=int(Status.RUNNING), node="n1", claim=claim, run=run)
    return task_id


def test_a_task_whose_start_its_supervisor_never_read_was_certainly_not_started(keeping: Cluster) -> None:
    """That of a supervisor which is not there any more may have been."""
    keeping.plugin("Once", f"{BEGIN}; echo begun; {GO}")
    queue = keeping.queue("Once", maxthreads=10)
    (running,) = keeping.push(queue, {})
    node = start(keeping)
    wait_until(lambda: "begun" in keeping.task(running).document["stdout"], 30, "it did not begin")
    keeping.stop_outside_of_a_commit(node)
    ((_, supervisor),) = living_below(keeping.directory / "state")
    unread = made_running(keeping, queue, supervisor, 1)
    unknown = made_running(keeping, queue, "0" * 32, 1)
    kill(node)
    node = keeping.start("--max", "30", pace={**QUICK_TO_SEE, **QUICK_TO_NOTICE})
    assert keeping.wait_for_status(unknown, Status.ORPHANED).document["error"]["code"] == "lost"
    wait_until(lambda: starts_of(keeping)[str(unread)] == 1, 30, "it was not started")
    # An older process that stood still makes one more Running, after this one has looked.
    late = made_running(keeping, queue, supervisor, 1)
    wait_until(lambda: starts_of(keeping)[str(late)] == 1, 30, "it was not started")
    (keeping.plugins / "go").touch()
    for task_id in (unread, late):
        task = finished(keeping, task_id)
        assert (task.status, task.run["attempt"], task.run["session"]) == (Status.CONCLUDED, 1, 2)
        (before,) = task.attempts
        assert before["error"]["message"] == "disbatch-host: node n1 ended before it had it started"
    assert finished(keeping, running).status == Status.CONCLUDED
    assert starts_of(keeping) == dict.fromkeys((str(running), str(unread), str(late)), 1)
    node.terminate()
    assert node.wait(30) == 0


def test_a_worker_process_ends_the_task_that_it_has_in_hand_and_gets_no_other(keeping: Cluster) -> None:
    """One is done while no node is there, one later, one ends with its task meanwhile, and one has nothing to do."""
    keeping.plugin("W", WORKER, file="w.py", mode="worker")
    queue = keeping.queue("W", maxthreads=10)
    (first,) = keeping.push(queue, {"waits_for": []})
    node = start(keeping)
    finished(keeping, first)
    meanwhile, later, ends = keeping.push(
        queue, {"waits_for": ["speak"]}, {"waits_for": ["speak", "go"]}, {"waits_for": ["speak"], "ends": True}
    )
    for task_id in (meanwhile, later, ends):
        wait_until(lambda one=task_id: "begun" in keeping.task(one).document["stdout"], 30, "it did not begin")
    (idle,) = keeping.push(queue, {"waits_for": []})
    finished(keeping, idle)
    pids = {task_id: pid_of(keeping, task_id) for task_id in (meanwhile, later, ends, idle)}
    assert len(set(pids.values())) == 4
    kill(node)
    (keeping.plugins / "speak").touch()
    wait_until(lambda: is_gone(pids[ends]), 30, "it did not end")
    node = start(keeping)
    task = keeping.wait_for_status(meanwhile, Status.CONCLUDED, within_seconds=30)
    assert (task.document["stdout"], task.document["result"]) == ("begun\nfound speak\n", f"of {meanwhile}")
    task = keeping.wait_for_status(ends, Status.FAILED, within_seconds=30)
    assert (task.run["reason"], task.run["exit_code"]) == ("worker_exited", 4)
    assert task.document["stdout"] == "begun\nfound speak\n"
    wait_until(lambda: is_gone(pids[meanwhile]) and is_gone(pids[idle]), 30, "one that is not needed is there still")
    assert not is_gone(pids[later])
    (another,) = keeping.push(queue, {"waits_for": []})
    assert finished(keeping, another).run["pid"] not in pids.values()
    (keeping.plugins / "go").touch()
    task = finished(keeping, later)
    assert (task.status, task.document["stdout"]) == (Status.CONCLUDED, "begun\nfound speak\nfound go\n")
    assert task.document["result"] == f"of {later}" and len(went_on(task)) == 1
    wait_until(lambda: is_gone(pids[later]), 30, "it was not retired")
    assert set(starts_of(keeping).values()) == {1} and len(starts_of(keeping)) == 6
    node.terminate()
    assert node.wait(30) == 0


@pytest.mark.parametrize("ends_by_itself", [True, False], ids=["asked", "killed"])
def test_a_node_that_settles_a_dead_one_on_its_machine_ends_its_supervisor_with_all_runs_first(
    keeping: Cluster, ends_by_itself: bool
) -> None:
    """What has left the run's session and environment is found by the supervisor alone."""
    leaves = 'setsid env -i sh -c "echo \\$\\$ >$DISBATCH_PLUGIN_DIR/left-$DISBATCH_NODE; exec sleep 600"'
    deaf = "" if ends_by_itself else "trap '' TERM; "
    program = (
        f"{deaf}{BEGIN}; {leaves} & echo begun on $DISBATCH_NODE; {GO}; "
        "until kill -9 $(cat $DISBATCH_PLUGIN_DIR/left-n2); do sleep 0.02; done"
    )
    for name, idempotent in (("Once", False), ("Again", True)):
        keeping.plugin(name, program, idempotent=idempotent, kill_grace="60s")
        keeping.push(keeping.queue(name), {})
    keeping.plugin("W", WORKER, file="w.py", mode="worker")
    (held,) = keeping.push(keeping.queue("W"), {"waits_for": ["go"]})
    (once,), (again,) = keeping.tasks(queue="Once"), keeping.tasks(queue="Again")
    node = keeping.start("--heartbeat", "0.3s", "--dead-after", "2s", pace=QUICK_TO_SEE)
    for task_id in (once.id, again.id, held):
        wait_until(lambda one=task_id: "begun" in keeping.task(one).document["stdout"], 30, "it did not begin")
    left = [keeping.plugins / name / "left-n1" for name in ("Once", "Again")]
    wait_until(lambda: all(one.exists() and one.read_text() for one in left), 30)
    pids = [*(pid_of(keeping, one) for one in (once.id, again.id, held)), *(int(one.read_text()) for one in left)]
    ((supervisor, _),) = living_below(keeping.directory / "state")
    kill(node)
    assert not any(map(is_gone, pids))
    other = keeping.start(node_id="n2", pace={**QUICK_TO_SEE, **QUICK_TO_NOTICE, "stop_supervisor_seconds": 2.0})
    wait_until(lambda: starts_of(keeping)[str(again.id)] == 2, 60, "it was not started again")
    assert all(map(is_gone, pids[:3]))
    if ends_by_itself:
        assert all(map(is_gone, pids))
    for task_id in (once.id, held):
        assert keeping.wait_for_status(task_id, Status.ORPHANED).document["error"]["code"] == "lost"
    assert f"process {supervisor} has runs of node n1, which nobody goes on with" in keeping.log("n2")
    (keeping.plugins / "go").touch()
    assert finished(keeping, again.id).document["stdout"] == "begun on n2\n"
    other.terminate()
    assert other.wait(30) == 0
    for pid in pids[3:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_what_a_worker_process_has_done_is_recorded_although_it_was_given_another_task_since(keeping: Cluster) -> None:
    """It gets the next one while the end of the last is on its way to the store, where a killed node cannot bring it.
    A task that no process was given is given to another."""
    keeping.plugin("W", WORKER, file="w.py", mode="worker")
    queue = keeping.queue("W", maxthreads=1)
    ids = keeping.push(queue, *[{"waits_for": []}] * 400)
    node = start(keeping)
    wait_until(lambda: len(starts_of(keeping)) > 20, 60, "it did not begin")
    for _ in range(4):
        seen = len(starts_of(keeping))
        wait_until(lambda seen=seen: len(starts_of(keeping)) > seen + 10, 60, "it does not go on")
        kill(node)
        node = start(keeping)
    for task_id in ids:
        task = finished(keeping, task_id)
        assert (task.status, task.document["stdout"]) == (Status.CONCLUDED, "begun\n"), task.document
        assert task.document["result"] == f"of {task_id}" and task.run["attempt"] == 1
    assert set(starts_of(keeping).values()) == {1} and len(starts_of(keeping)) == len(ids)
    node.terminate()
    assert node.wait(30) == 0


def test_however_often_a_node_is_killed_under_load_each_task_is_run_once_and_none_is_lost(keeping: Cluster) -> None:
    """Killed at random moments: between a claim and a start, an end and its record, a record and its acknowledgment."""
    trace = keeping.directory / "trace"
    begin, end = (f'echo "{mark} $DISBATCH_TASK_ID" >>{trace}' for mark in ("start", "end"))
    program = f"{begin}; sleep 0.$(( $$ % 7 )); {end}; echo out"
    for name, idempotent in (("Once", False), ("Again", True)):
        keeping.plugin(name, program, idempotent=idempotent)
        keeping.push(keeping.queue(name, maxthreads=20), *({},) * 200)
    chance = random.Random(7)
    node = start(keeping)
    for number in range(6):
        wanted = lines(trace) + chance.randrange(20, 100)
        wait_until(lambda wanted=wanted: lines(trace) >= wanted, 60, f"round {number} did not get on")
        kill(node)
        node = start(keeping)
    keeping.wait_for_all(120)
    starts, ends = marks(trace, "start"), marks(trace, "end")
    for task in keeping.tasks():
        assert (task.status, task.run["reason"], task.document["stdout"]) == (Status.CONCLUDED, "exited", "out\n")
        assert (starts[str(task.id)], ends[str(task.id)], task.run["attempt"]) == (1, 1, 1), task.document
    assert len(starts) == 400 and not keeping.tasks(statuses=frozenset({int(Status.ORPHANED)}))
    assert sum("adopted" in task.run for task in keeping.tasks()) >= 20
    node.terminate()
    assert node.wait(30) == 0

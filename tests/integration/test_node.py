"""The life of a node: what it takes and leaves, how it stops, what becomes of what a dead one has left; both stores."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.documents.changes import Want
from disbatch_host.documents.records import NOBODY, new_task
from disbatch_host.process.facts import process_started
from disbatch_host.process.machine import Machine
from disbatch_protocol.status import Status
from helpers.nodes import QUICK_TO_NOTICE, Cluster, documents
from helpers.processes import assert_group_is_gone, stop, wait_until
from helpers.stores import on_sqlite

# Appends a line to $TRACE: the task's id, so that every real start can be counted.
TRACE = 'echo "$DISBATCH_TASK_ID" >>{trace}'


def starts(trace: Path) -> Counter[str]:
    return Counter(trace.read_text().split()) if trace.exists() else Counter()


def test_documents_inserted_by_hand_are_run_and_come_out_conforming(cluster: Cluster) -> None:
    cluster.plugin("Echo", "cat >/dev/null; echo ran")
    queue = cluster.queue("Echo", "by-hand")
    base = new_task(queue, {"name": "x"}, now=datetime(2011, 5, 12, 6, 0, 7, tzinfo=UTC))
    without_node = {name: value for name, value in base.items() if name != "node"}
    ids = cluster.store.insert_tasks(
        [
            {**base, "node": -1},
            {**base, "node": None},
            without_node,
            {**base, "log": [], "mailbox": {"server": "md08", "tries": [1, None]}, "note": "kept"},
            {**base, "status": -2.0, "node": -1.0},
            {**base, "parameters": None},
        ]
    )
    cluster.run()
    for task_id in ids:
        document = cluster.task(task_id).document
        assert (document["status"], document["node"], document["stdout"], document["stderr"]) == (1, "n1", "ran\n", "")
        assert document["mtime"] > document["ctime"] == base["ctime"]
        assert document["queue"] == "by-hand"
    kept = cluster.task(ids[3]).document
    assert (kept["log"], kept["mailbox"], kept["note"]) == ([], {"server": "md08", "tries": [1, None]}, "kept")


def test_queues_that_are_not_for_this_node_are_left_alone(cluster: Cluster) -> None:
    cluster.plugin("Echo", "echo ran")
    queues = {
        "pinned-elsewhere": {"nodes_pin": ["other"]},
        "ignored-here": {"nodes_ignore": ["n1", "x"]},
        "pin-wins": {"nodes_pin": ["n1"], "nodes_ignore": ["n1"]},
        "empty-lists": {"nodes_pin": [], "nodes_ignore": []},
        "ignored-elsewhere": {"nodes_ignore": ["other"]},
    }
    ids = {name: cluster.push(cluster.queue("Echo", name, **fields), {})[0] for name, fields in queues.items()}
    ids["no-plugin"] = cluster.push(cluster.queue("Unknown", "no-plugin"), {})[0]
    untouched = {name: cluster.task(ids[name]) for name in ("pinned-elsewhere", "ignored-here", "no-plugin")}
    cluster.run()
    for name in ("pin-wins", "empty-lists", "ignored-elsewhere"):
        assert cluster.task(ids[name]).status == Status.CONCLUDED, name
    for name, before in untouched.items():
        assert documents([cluster.task(ids[name])]) == documents([before]), name


def test_a_queue_document_that_cannot_be_used_hinders_no_other(cluster: Cluster) -> None:
    cluster.plugin("Echo", "echo ran")
    broken = cluster.push(cluster.queue("Echo", "broken", maxthreads="many"), {})[0]
    cluster.store.insert_queue({"_id": "classless"})
    fine = cluster.push(cluster.queue("Echo", "fine", maxthreads=2.0), {})[0]
    log = cluster.run()
    assert (cluster.task(broken).status, cluster.task(fine).status) == (Status.CREATED, Status.CONCLUDED)
    assert 'queue broken cannot be run: "maxthreads" must be a whole number' in log


def test_maxthreads_and_max_total_hold(cluster: Cluster) -> None:
    trace = cluster.directory / "trace"
    cluster.plugin("Count", f"echo + >>{trace}; sleep 0.1; echo - >>{trace}")
    cluster.push(cluster.queue("Count", "narrow", maxthreads=2), *({} for _ in range(10)))
    cluster.run()
    assert highest(trace) == 2
    trace.unlink()
    for name in ("a", "b", "c"):
        cluster.push(cluster.queue("Count", name, maxthreads=9), *({} for _ in range(5)))
    cluster.run("--max-total", "4")
    assert highest(trace) == 4


def test_a_plugins_concurrency_holds_over_all_queues(cluster: Cluster) -> None:
    trace = cluster.directory / "trace"
    cluster.plugin("Count", f"echo + >>{trace}; sleep 0.1; echo - >>{trace}", concurrency=3)
    for name in ("a", "b", "c"):
        cluster.push(cluster.queue("Count", name), *({} for _ in range(5)))
    cluster.run()
    assert highest(trace) == 3
    assert {task.status for task in cluster.tasks()} == {Status.CONCLUDED}


def highest(trace: Path) -> int:
    running = most = 0
    for mark in trace.read_text().split():
        running += 1 if mark == "+" else -1
        most = max(most, running)
    assert running == 0
    return most


def test_queues_and_plugins_that_come_while_a_node_runs_are_served(cluster: Cluster) -> None:
    cluster.start()
    wait_until(lambda: cluster.store.get_node("n1"), 20, "the node did not register")
    (late,) = cluster.push(cluster.queue("Late"), {})
    cluster.plugin("Late", "echo ran")
    cluster.wait_for_status(late, Status.CONCLUDED)


def test_a_plugin_that_goes_while_a_node_runs_leaves_its_queue_waiting_and_its_running_task_running(
    cluster: Cluster,
) -> None:
    gate = cluster.directory / "gate"
    home = cluster.plugin("Going", f"echo begun; while ! test -e {gate}; do sleep 0.1; done; echo ended")
    queue = cluster.queue("Going")
    (running,) = cluster.push(queue, {})
    cluster.start("--heartbeat", "0.1", pace={"plugin_scan_seconds": 0.2})
    cluster.wait_for_status(running, Status.RUNNING)
    (home / "plugin.json").unlink()
    wait_until(lambda: cluster.store.get_node("n1").document["queuetypes"] == [], 20, "the plugin is still there")
    (waiting,) = cluster.push(queue, {})
    gate.touch()
    assert cluster.wait_for_status(running, Status.CONCLUDED).document["stdout"] == "begun\nended\n"
    assert cluster.task(waiting).status == Status.CREATED
    cluster.plugin("Going", "echo again")
    cluster.wait_for_status(waiting, Status.CONCLUDED)


def test_the_nodes_document_is_what_den_1_0_describes(cluster: Cluster) -> None:
    gate = cluster.directory / "gate"
    cluster.plugin("Hello", f"while ! test -e {gate}; do sleep 0.1; done", version="1.1a")
    (task_id,) = cluster.push(cluster.queue("Hello", "insight1", maxthreads=50), {})
    process = cluster.start("--heartbeat", "0.1")
    cluster.wait_for_status(task_id, Status.RUNNING)

    def queues() -> Any:
        return cluster.store.get_node("n1").document["heartbeat"]["queues"]

    expected = [{"class": "Hello", "queue": "insight1", "threads": 50, "idle": 49, "processing": 1}]
    wait_until(lambda: queues() == expected, 20, "the heartbeat does not show the running task")
    document = cluster.store.get_node("n1").document
    assert document["version"].startswith("disbatch-host ")
    assert document["spec_version"] == document["den_version"] == "1.0"
    (kind,) = document["queuetypes"]
    assert {name: kind[name] for name in kind if name != "digest"} == {"class": "Hello", "version": "1.1a"}
    assert document["heartbeat"]["pid"] == process.pid
    before = document["heartbeat"]["datetime"]
    wait_until(lambda: cluster.store.get_node("n1").document["heartbeat"]["datetime"] > before, 5, "no heartbeat")
    gate.touch()
    process.terminate()
    assert process.wait(20) == 0
    assert cluster.store.get_node("n1") is None


def test_an_id_that_a_living_node_holds_is_refused_in_one_line_and_force_takes_it(cluster: Cluster) -> None:
    gate = cluster.directory / "gate"
    cluster.plugin("Hold", f"echo begun; while ! test -e {gate}; do sleep 0.1; done")
    (task_id,) = cluster.push(cluster.queue("Hold"), {})
    first = cluster.start("--heartbeat", "0.1")
    running = cluster.wait_for_status(task_id, Status.RUNNING)
    wait_until(lambda: "pid_started" in cluster.task(task_id).run, 10, "the pid was not written")
    second = cluster.start()
    assert second.wait(20) == 5
    assert f"machine {Machine.this().name}, process {first.pid}" in cluster.log()
    assert cluster.task(task_id).status == Status.RUNNING
    pid = cluster.task(task_id).run["pid"]
    third = cluster.start("--force")
    assert first.wait(20) == 5
    assert_group_is_gone(pid)
    assert cluster.wait_for_status(task_id, Status.ORPHANED).run["token"] == running.token
    third.terminate()
    assert third.wait(20) == 0


def test_the_id_of_a_node_that_was_killed_here_is_free_at_once(cluster: Cluster) -> None:
    cluster.plugin("Echo", "echo ran")
    process = cluster.start()
    wait_until(lambda: cluster.store.get_node("n1"), 20, "the node did not register")
    process.kill()
    process.wait()
    (task_id,) = cluster.push(cluster.queue("Echo"), {})
    cluster.run()
    assert cluster.task(task_id).status == Status.CONCLUDED


def test_the_id_of_a_node_of_another_machine_is_held_by_its_heartbeat(cluster: Cluster) -> None:
    document = {
        "_id": "n1",
        "version": "disbatch-host 9",
        "session": "x",
        "host": {"name": "far"},
        "heartbeat": {"pid": 1},
    }
    assert cluster.store.put_node(document, replacing=None)
    assert cluster.start().wait(20) == 5
    assert "machine far" in cluster.log()
    record = cluster.store.get_node("n1")
    assert record is not None and record.session == "x"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_stop_sees_running_tasks_through_and_gives_the_others_back(
    cluster: Cluster, number: signal.Signals
) -> None:
    gate = cluster.directory / "gate"
    cluster.plugin("Slow", f"echo begun; while ! test -e {gate}; do sleep 0.1; done")
    ids = cluster.push(cluster.queue("Slow", maxthreads=2), *({} for _ in range(4)))
    process = cluster.start()
    for task_id in ids[:2]:
        # Running comes with the claim: before its program has begun, a task simply goes back.
        wait_until(lambda one=task_id: cluster.task(one).document["stdout"] == "begun\n", 20, "it did not begin")
    process.send_signal(number)
    wait_until(lambda: "run on to their end" in cluster.log(), 10, "the stop was not said")
    gate.touch()
    assert process.wait(20) == 0
    assert [cluster.task(one).status for one in ids] == [1, 1, -2, -2]
    assert {cluster.task(one).document["node"] for one in ids[2:]} == {NOBODY}
    assert cluster.store.get_node("n1") is None


@pytest.mark.parametrize("idempotent", [True, False])
def test_past_the_grace_tasks_are_stopped_and_given_back_or_terminated(cluster: Cluster, idempotent: bool) -> None:
    cluster.plugin("Slow", "echo begun; sleep 600", idempotent=idempotent)
    (task_id,) = cluster.push(cluster.queue("Slow"), {})
    process = cluster.start("--stop-grace", "0.2")
    wait_until(lambda: cluster.task(task_id).document["stdout"] == "begun\n", 20, "it did not begin")
    process.terminate()
    assert process.wait(20) == 0
    task = cluster.task(task_id)
    assert (task.run["reason"], task.run["signal"], task.run["attempt_used"]) == ("shutdown", "TERM", False)
    if idempotent:
        assert (task.status, task.document["node"], task.next_attempt) == (Status.CREATED, NOBODY, 1)
    else:
        assert task.status == Status.TERMINATED
        assert task.document["error"]["message"] == "disbatch-host: its node stopped while it ran"
    assert_group_is_gone(task.run["pid"])


def test_a_second_signal_stops_running_tasks_and_a_third_kills_them(cluster: Cluster) -> None:
    cluster.plugin("Soft", "echo begun; sleep 600")
    cluster.plugin("Hard", "trap '' TERM; echo begun; while :; do sleep 600; done", kill_grace="1h")
    (soft,) = cluster.push(cluster.queue("Soft"), {})
    (hard,) = cluster.push(cluster.queue("Hard"), {})
    process = cluster.start()
    for task_id in (soft, hard):
        wait_until(lambda one=task_id: cluster.task(one).document["stdout"] == "begun\n", 20, "did not begin")
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "run on to their end" in cluster.log(), 10, "the first signal was not said")
    assert cluster.task(soft).status == Status.RUNNING
    process.send_signal(signal.SIGINT)
    assert cluster.wait_for_status(soft, Status.TERMINATED).run["signal"] == "TERM"
    assert cluster.task(hard).status == Status.RUNNING
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    killed = cluster.task(hard)
    assert (killed.status, killed.run["signal"]) == (Status.TERMINATED, "KILL")
    assert "after it was asked to stop, before its kill_grace of 1h was over" in killed.document["error"]["message"]


def test_after_a_crash_every_task_is_accounted_for(cluster: Cluster) -> None:
    """Running ones of a plugin that may run twice run again, the others are orphaned; nothing runs beside them."""
    trace, gate = cluster.directory / "trace", cluster.directory / "gate"
    program = f"{TRACE.format(trace=trace)}; echo begun; while ! test -e {gate}; do sleep 0.1; done; echo done"
    cluster.plugin("Safe", program, idempotent=True)
    cluster.plugin("Unsafe", program)
    (safe,) = cluster.push(cluster.queue("Safe", maxthreads=1), {})
    unsafe, waiting = cluster.push(cluster.queue("Unsafe", maxthreads=1), {}, {})
    process = cluster.start()
    for task_id in (safe, unsafe):
        wait_until(lambda one=task_id: cluster.task(one).document["stdout"] == "begun\n", 20, "did not begin")
    groups = [cluster.task(one).run["pid"] for one in (safe, unsafe)]
    process.kill()
    process.wait()
    cluster.store.update_queue("Unsafe", {"nodes_ignore": ["n1"]})  # so that only the start's clean-up touches it
    again = cluster.start()
    wait_until(lambda: starts(trace)[str(safe)] == 2, 20, "the idempotent task was not started again")
    for group in groups:
        assert_group_is_gone(group)
    orphan = cluster.task(unsafe)
    assert (orphan.status, orphan.run["reason"]) == (Status.ORPHANED, "lost")
    assert "node n1 was lost while this task ran" in orphan.document["error"]["message"]
    gate.touch()
    done = cluster.wait_for_status(safe, Status.CONCLUDED)
    assert (done.run["attempt"], [one["reason"] for one in done.attempts]) == (2, ["lost"])
    assert starts(trace) == {str(safe): 2, str(unsafe): 1}
    assert cluster.task(waiting).status == Status.CREATED
    again.terminate()
    assert again.wait(20) == 0


def test_a_claimed_task_of_an_earlier_life_goes_back_whatever_its_plugin_says(cluster: Cluster) -> None:
    cluster.plugin("Echo", "echo ran")
    queue = cluster.queue("Echo")
    (task_id,) = cluster.push(queue, {})
    cluster.store.claim("n1", [Want(queue, 1)], "from an earlier life")
    cluster.run()
    task = cluster.task(task_id)
    assert (task.status, task.run["attempt"], task.attempts) == (Status.CONCLUDED, 1, [])


def test_another_node_settles_what_a_dead_one_has_left(cluster: Cluster) -> None:
    trace = cluster.directory / "trace"
    gate = cluster.directory / "gate"
    program = f"{TRACE.format(trace=trace)}; while ! test -e {gate}; do sleep 0.1; done"
    cluster.plugin("Safe", program, idempotent=True)
    cluster.plugin("Unsafe", program)
    (safe,) = cluster.push(cluster.queue("Safe"), {})
    (unsafe,) = cluster.push(cluster.queue("Unsafe"), {})
    first = cluster.start("--heartbeat", "0.2", "--dead-after", "1")
    for task_id in (safe, unsafe):
        cluster.wait_for_status(task_id, Status.RUNNING)
    wait_until(lambda: sum(starts(trace).values()) == 2, 10, "not both were started")
    first.kill()
    first.wait()
    cluster.start(node_id="n2", pace=QUICK_TO_NOTICE)
    cluster.wait_for_status(unsafe, Status.ORPHANED)
    wait_until(lambda: starts(trace)[str(safe)] == 2, 20, "the idempotent task was not started again")
    gate.touch()
    assert cluster.wait_for_status(safe, Status.CONCLUDED).document["node"] == "n2"


def test_a_node_that_comes_back_from_a_long_pause_changes_nothing_and_says_so(cluster: Cluster) -> None:
    trace = cluster.directory / "trace"
    cluster.plugin("Unsafe", f"{TRACE.format(trace=trace)}; echo begun; sleep 600")
    (task_id,) = cluster.push(cluster.queue("Unsafe"), {})
    first = cluster.start("--heartbeat", "0.2", "--dead-after", "1")
    wait_until(lambda: cluster.task(task_id).document["stdout"] == "begun\n", 20, "did not begin")
    stop(first.pid)
    cluster.start(node_id="n2", pace=QUICK_TO_NOTICE)
    cluster.wait_for_status(task_id, Status.ORPHANED)
    before = cluster.task(task_id)
    first.send_signal(signal.SIGCONT)
    wait_until(lambda: "was taken over" in cluster.log("n1"), 20, "the revived node says nothing")
    assert_group_is_gone(before.run["pid"])
    first.terminate()
    assert first.wait(20) == 0
    assert documents([cluster.task(task_id)]) == documents([before])
    assert starts(trace) == {str(task_id): 1}


def test_tasks_of_a_living_node_or_of_another_program_are_not_touched(cluster: Cluster) -> None:
    cluster.plugin("Echo", "echo ran")
    queue = cluster.queue("Echo")
    foreign = {"status": 0, "node": "perl01"}
    (task_id,) = cluster.push(queue, {}, **foreign)
    old = {"datetime": datetime.now(UTC) - timedelta(days=1), "pid": 1}
    cluster.store.put_node({"_id": "perl01", "version": "Disbatch.pl 2", "heartbeat": old}, replacing=None)
    before = cluster.task(task_id)
    (mine,) = cluster.push(queue, {})
    cluster.start("--heartbeat", "0.1")
    cluster.wait_for_status(mine, Status.CONCLUDED)
    assert documents([cluster.task(task_id)]) == documents([before])


@pytest.mark.parametrize("count", [600, pytest.param(2000, marks=pytest.mark.soak)])
def test_two_nodes_share_very_many_tasks_and_none_is_started_twice(cluster: Cluster, count: int) -> None:
    trace, gate = cluster.directory / "trace", cluster.directory / "gate"
    cluster.plugin("Quick", f"{TRACE.format(trace=trace)}; while ! test -e {gate}; do sleep 0.1; done")
    ids = cluster.push(cluster.queue("Quick", maxthreads=8), *({"n": number} for number in range(count)))
    nodes = [cluster.start("--until-idle", node_id=name) for name in ("n1", "n2")]
    wait_until(lambda: len(starts(trace)) == 16, 30, "not both of them run as many as they may")
    gate.touch()
    for node in nodes:
        assert node.wait(100) == 0
    assert starts(trace) == Counter({str(one): 1 for one in ids})
    by_node = Counter(task.document["node"] for task in cluster.tasks(statuses=frozenset({1})))
    assert sum(by_node.values()) == count and min(by_node["n1"], by_node["n2"]) > count / 20


def test_until_idle_waits_for_what_is_due_later_and_for_other_nodes(cluster: Cluster) -> None:
    gate = cluster.directory / "gate"
    cluster.plugin("Again", 'test "$DISBATCH_ATTEMPT" = 2', retry={"max": 1, "delay": 1, "jitter": 0})
    cluster.plugin("Hold", f"while ! test -e {gate}; do sleep 0.1; done")
    (held,) = cluster.push(cluster.queue("Hold", nodes_ignore=[]), {})
    other = cluster.start(node_id="n2")
    cluster.wait_for_status(held, Status.RUNNING)
    (again,) = cluster.push(cluster.queue("Again"), {})
    process = cluster.start("--until-idle")
    cluster.wait_for_status(again, Status.CONCLUDED)
    assert process.poll() is None
    gate.touch()
    assert process.wait(20) == 0
    other.terminate()
    assert other.wait(20) == 0


def test_what_a_node_does_not_know_of_its_pid_is_found_by_the_processes_environment(cluster: Cluster) -> None:
    """A node that is killed right after a start has not yet written the pid down."""
    cluster.plugin("Safe", "echo ran", idempotent=True)
    queue = cluster.queue("Safe")
    (task_id,) = cluster.push(queue, {})
    (task,) = cluster.store.claim("n1", [Want(queue, 1)], "t")
    from disbatch_host.documents.changes import RunChange, RunKey

    change = RunChange(
        key=RunKey(task.id, "n1", "t"),
        statuses=(Status.CLAIMED,),
        set={"status": 0, "run": {"attempt": 1, "token": "t", "idempotent": True}},
    )
    assert cluster.store.commit([change]) == set()
    import subprocess

    environment = {**os.environ, "DISBATCH_NODE": "n1", "DISBATCH_TASK_ID": str(task_id)}
    left = subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True)
    wait_until(lambda: process_started(left.pid) is not None, 5)
    cluster.run()
    assert left.wait(10) == -signal.SIGKILL
    assert cluster.task(task_id).status == Status.CONCLUDED


def test_wrong_json_in_a_manifest_leaves_the_other_plugins_running(cluster: Cluster) -> None:
    home = cluster.plugin("Broken", "echo never")
    (home / "plugin.json").write_text('{"protocol": 1, ')
    cluster.plugin("Twin", "echo one")
    twin = cluster.plugin("Twin2", "echo two")
    (twin / "plugin.json").write_text(json.dumps({"protocol": 1, "command": ["./run.sh"], "name": "Twin"}))
    cluster.plugin("Fine", "echo fine")
    (task_id,) = cluster.push(cluster.queue("Fine"), {})
    log = cluster.run()
    assert cluster.task(task_id).status == Status.CONCLUDED
    assert "not valid JSON" in log and "another plugin has the name 'Twin' as well" in log


def test_a_claim_whose_answer_was_lost_is_given_back(cluster: Cluster) -> None:
    queue = cluster.queue("Echo", maxthreads=2)
    mine, other = cluster.push(queue, {}, {})
    cluster.store.claim("n1", [Want(queue, 2)], "lost answer")
    from disbatch_host.node.claim_ledger import ClaimLedger
    from disbatch_host.node.pace import Pace

    ledger = ClaimLedger("n1", Pace())
    assert ledger.return_orphaned_claims(cluster.store, known=frozenset({mine})) == 1
    assert [cluster.task(one).status for one in (mine, other)] == [Status.CLAIMED, Status.CREATED]


@on_sqlite
def test_a_machine_without_descriptors_is_no_fault_of_the_plugin(cluster: Cluster) -> None:
    cluster.plugin("Echo", "sleep 0.3")
    ids = cluster.push(cluster.queue("Echo", maxthreads=20), *({} for _ in range(20)))
    fewer = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
    log = cluster.run(through=fewer, pace={"shortage_seconds": 0.5}, timeout_seconds=90)
    assert "this machine is short of something" in log and "set aside" not in log
    assert {cluster.task(one).status for one in ids} == {Status.CONCLUDED}


@pytest.mark.mongodb
def test_an_end_that_the_store_finds_too_large_is_recorded_without_its_output(mongo_cluster: Cluster) -> None:
    mongo_cluster.plugin("Big", "head -c 1000000 /dev/zero | tr '\\0' x")
    (task_id,) = mongo_cluster.push(mongo_cluster.queue("Big"), {"data": "y" * (15 * 2**20 + 900_000)})
    mongo_cluster.run()
    task = mongo_cluster.task(task_id)
    assert (task.status, task.run["exit_code"], task.document["stdout"]) == (Status.CONCLUDED, 0, "")
    assert task.document["error"]["code"] == "not_stored"

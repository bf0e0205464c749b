"""A node leaves, and its runs go on: other nodes leave its tasks alone for as long as it said, and the next life of the
same node goes on with them."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.client.nodes import Nodes, life_of, to_json
from disbatch_host.decide import readings
from disbatch_host.documents.changes import RunChange, RunKey
from disbatch_host.documents.records import NodeRecord
from disbatch_host.errors import ExitCode
from disbatch_host.process import facts
from disbatch_protocol.status import Status
from helpers import forked, supervisors
from helpers.nodes import QUICK_TO_NOTICE, QUICK_TO_SEE, Cluster
from helpers.processes import is_pending, wait_until
from helpers.stores import on_sqlite

pytestmark = [supervisors.usable(), pytest.mark.timeout(180)]

BEGIN = 'echo "$DISBATCH_TASK_ID $$" >>"$DISBATCH_PLUGIN_DIR/starts"'
UNTIL_GO = 'while ! [ -e "$DISBATCH_PLUGIN_DIR/../go" ]; do sleep 0.1; done'
HOLD = f"{BEGIN}; echo begun; {UNTIL_GO}; echo done"
WORKER = r"""#!/usr/bin/env python3
import json, os, sys, time
from pathlib import Path
events = os.fdopen(3, "w", buffering=1)
home = Path(os.environ["DISBATCH_PLUGIN_DIR"])
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        events.write('{"type": "ready", "protocol": 1}\n')
    elif message["type"] == "task":
        with (home / "starts").open("a") as file:
            file.write(f"{message['task']['_id']} {os.getpid()}\n")
        print("begun", flush=True)
        while message["task"]["parameters"]["hold"] and not (home.parent / "go").exists():
            time.sleep(0.02)
        print("done", flush=True)
        events.write('{"type": "done", "exit": 0}\n')
"""
PACE = {**QUICK_TO_SEE, **QUICK_TO_NOTICE}
QUICK = ("--heartbeat", "0.3", "--dead-after", "1")


@pytest.fixture
def keeping(cluster: Cluster) -> Cluster:
    """A cluster whose nodes have homes."""
    cluster.keep_runs()
    return cluster


def starts(cluster: Cluster) -> list[list[str]]:
    """The task and process of each program that was really started."""
    lines = [line for file in cluster.plugins.glob("*/starts") for line in file.read_text().splitlines()]
    return [line.split() for line in lines]


def running(cluster: Cluster, count: int = 3, *, idempotent: bool = False) -> list[Any]:
    """Tasks that run on a living node n1."""
    cluster.plugin("Hold", HOLD, idempotent=idempotent)
    ids = cluster.push(cluster.queue("Hold", maxthreads=count), *({},) * count)
    wait_until(lambda: len(starts(cluster)) == count, 60, "not all have started")
    for task_id in ids:
        wait_until(lambda one=task_id: "begun" in cluster.task(one).document["stdout"], 30, "nothing was written")
    return ids


def start(cluster: Cluster, *options: str, node_id: str = "n1") -> forked.Started:
    return cluster.start(*QUICK, *options, node_id=node_id, pace=PACE)


def node(cluster: Cluster, node_id: str = "n1") -> NodeRecord:
    found = cluster.store.get_node(node_id)
    assert found is not None
    return found


def assert_all_end_well(cluster: Cluster, ids: list[Any]) -> None:
    """Each with what it has said from its beginning on, and started once."""
    (cluster.plugins / "go").touch()
    for task_id in ids:
        task = cluster.wait_for_status(task_id, Status.CONCLUDED, within_seconds=60)
        assert task.document["stdout"] == "begun\ndone\n"
        assert [task for task, _ in starts(cluster)].count(str(task_id)) == 1


@pytest.mark.parametrize("how", ["request", "SIGUSR2", "SIGTERM"])
def test_a_node_that_leaves_says_so_and_the_next_one_goes_on_with_its_runs(keeping: Cluster, how: str) -> None:
    cluster = keeping
    first = start(cluster, *(["--on-stop", "keep"] if how == "SIGTERM" else []), "--away-for", "5m")
    ids = running(cluster)
    nodes = Nodes(cluster.store, "ann@here")
    began = time.monotonic()
    match how:
        case "request":
            nodes.wait(nodes.stop("n1", why="upgrade", keep_runs=True), within_seconds=30)
        case _:
            first.send_signal(signal.Signals[how])
    assert first.wait(30) == 0
    assert time.monotonic() - began < 10, "it waits for nothing"
    record = node(cluster)
    away = record.document["away"]
    by = {"request": ("ann@here", "upgrade")}.get(how, (how, None))
    assert (away["by"], away.get("why")) == by
    assert record.away_seconds is not None and 250 < record.away_seconds <= 300
    assert (life_of(record), readings.kept_of(record), record.state) == ("away", 3, "away")
    assert Path(record.document["home"]).is_dir() and to_json(record)["alive"] is False
    assert "this node leaves" in cluster.log() and "3 tasks run on without it" in cluster.log()
    assert all(facts.process_started(int(pid)) for _, pid in starts(cluster)), "the programs go on"
    assert {cluster.task(one).status for one in ids} == {Status.RUNNING}
    start(cluster)
    wait_until(lambda: node(cluster).session != record.session, 30, "it did not take its id again")
    assert "away" not in node(cluster).document
    assert_all_end_well(cluster, ids)


def test_nobody_settles_a_node_that_is_away_before_its_time_is_over(keeping: Cluster) -> None:
    cluster = keeping
    first = start(cluster, "--away-for", "6s", "--keep-for", "10m")
    ids = running(cluster)
    start(cluster, node_id="n2")
    wait_until(lambda: cluster.store.get_node("n2"), 30, "n2 never came")
    first.send_signal(signal.SIGUSR2)
    assert first.wait(30) == 0
    until = node(cluster).document["away"]["until"]

    def is_over() -> bool:  # after many times `dead_after` and what makes n2 certain of a death
        found, now = {cluster.task(one).status for one in ids}, cluster.store.now()
        assert found == {Status.RUNNING} or now >= until, "settled before its time was over"
        return bool(now >= until)

    wait_until(is_over, 30)
    for task_id in ids:
        task = cluster.wait_for_status(task_id, Status.ORPHANED, within_seconds=30)
        assert task.document["mtime"] >= until
    wait_until(lambda: "node n1 is dead" in cluster.log("n2"), 30)


def test_a_node_that_is_back_in_time_keeps_its_tasks_from_everybody(keeping: Cluster) -> None:
    """Idempotent ones as well: they would otherwise run twice at once."""
    cluster = keeping
    first = start(cluster, "--away-for", "2m")
    ids = running(cluster, idempotent=True)
    start(cluster, node_id="n2")
    wait_until(lambda: cluster.store.get_node("n2"), 30, "n2 never came")
    first.send_signal(signal.SIGUSR2)
    assert first.wait(30) == 0
    wait_until(lambda: (node(cluster).age_seconds or 0.0) > 6.0, 30, "its heartbeat does not age")
    start(cluster)
    assert_all_end_well(cluster, ids)
    assert "n1 is dead" not in cluster.log("n2")


def test_what_has_not_begun_goes_back_when_a_node_leaves(keeping: Cluster) -> None:
    cluster = keeping
    first = start(cluster, "--max", "50", "--away-for", "2m")
    ids = running(cluster)
    more = cluster.push("Hold", *({},) * 20)
    cluster.plugin("Slow", "#!/bin/sh\nsleep 600\n", mode="worker", worker={"start_timeout": "100s"})
    first.send_signal(signal.SIGHUP)
    (waits,) = cluster.push(cluster.queue("Slow"), {})
    cluster.wait_for_status(waits, Status.CLAIMED, within_seconds=60)
    first.send_signal(signal.SIGUSR2)
    assert first.wait(30) == 0
    assert cluster.task(waits).status == Status.CREATED
    assert {cluster.task(one).status for one in more} == {Status.CREATED}
    start(cluster)
    assert_all_end_well(cluster, ids)


def test_a_node_with_nothing_to_leave_gives_its_id_back(keeping: Cluster) -> None:
    cluster = keeping
    first = start(cluster)
    wait_until(lambda: cluster.store.get_node("n1"), 30, "n1 never came")
    wait_until(lambda: node(cluster).document.get("home"), 30, "it has no home")
    first.send_signal(signal.SIGUSR2)
    assert first.wait(30) == 0
    assert cluster.store.get_node("n1") is None


def test_a_node_whose_runs_end_with_it_says_so_and_leaves_nothing(cluster: Cluster) -> None:
    first = start(cluster)
    ids = running(cluster)
    assert node(cluster).document["home"] is None and "kept" not in node(cluster).document["heartbeat"]
    first.send_signal(signal.SIGUSR2)
    wait_until(lambda: "SIGUSR2 wants this node to leave its runs, which is not possible" in cluster.log(), 30)
    assert_all_end_well(cluster, ids)
    first.terminate()
    assert first.wait(30) == 0


def test_a_second_process_of_a_node_that_lives_ends_with_one_line_and_changes_nothing(keeping: Cluster) -> None:
    """Also where somebody has deleted its document, and its next heartbeat is far away: two processes that use one
    supervisor would take each other's runs."""
    cluster = keeping
    first = cluster.start("--heartbeat", "60", "--dead-after", "120", pace=PACE)
    ids = running(cluster)
    record = node(cluster)
    assert cluster.store.remove_node("n1", record.session)
    before = cluster.log()
    second = cluster.start()
    assert second.wait(60) == ExitCode.NODE_ID_IN_USE
    lines = [one for one in cluster.log().removeprefix(before).splitlines() if " INFO " not in one]
    assert len(lines) == 1 and f"node id 'n1' is in use by process {first.pid} of this machine" in lines[0], lines
    assert cluster.store.get_node("n1") is None
    assert_all_end_well(cluster, ids)
    assert first.poll() is None


def test_what_sigterm_means_follows_the_configuration_when_it_is_read_again(keeping: Cluster) -> None:
    cluster = keeping
    file = cluster.directory / "config.json"
    file.write_text('{"on_stop": "drain"}')
    first = start(cluster, "--config", str(file))
    ids = running(cluster)
    file.write_text('{"on_stop": "keep", "away_for": "7m"}')
    first.send_signal(signal.SIGHUP)
    wait_until(lambda: "on_stop is keep" in cluster.log(), 30, "it was not read")
    first.terminate()
    assert first.wait(30) == 0
    away_seconds = node(cluster).away_seconds
    assert away_seconds is not None and 400 < away_seconds <= 420
    start(cluster)
    assert_all_end_well(cluster, ids)


def test_a_worker_process_keeps_its_task_and_one_without_a_task_ends(keeping: Cluster) -> None:
    cluster = keeping
    cluster.plugin("W", WORKER, file="w.py", mode="worker")
    queue = cluster.queue("W", maxthreads=2)
    first = start(cluster, "--away-for", "2m")
    holds, quick = cluster.push(queue, {"hold": True}, {"hold": False})
    cluster.wait_for_status(quick, Status.CONCLUDED, within_seconds=60)
    wait_until(lambda: "begun" in cluster.task(holds).document["stdout"], 60, "it did not begin")
    pids = {task: int(pid) for task, pid in starts(cluster)}
    first.send_signal(signal.SIGUSR2)
    assert first.wait(30) == 0
    assert readings.kept_of(node(cluster)) == 1
    wait_until(lambda: facts.process_started(pids[str(quick)]) is None, 30, "the idle one is still there")
    assert facts.process_started(pids[str(holds)]) is not None
    start(cluster)
    assert_all_end_well(cluster, [holds])


@pytest.mark.parametrize("how", ["left", "killed"])
def test_a_start_that_could_not_go_on_with_the_runs_does_not_kill_them(keeping: Cluster, how: str) -> None:
    """Such as cron's --until-idle during an upgrade, or a state directory that was moved."""
    cluster = keeping
    first = start(cluster, "--away-for", "5m")
    ids = running(cluster)
    wait_until(lambda: readings.kept_of(node(cluster)) == 3, 30, "it does not say how many it has")
    first.send_signal(signal.SIGUSR2 if how == "left" else signal.SIGKILL)
    first.wait(30)
    home, state = node(cluster).document["home"], cluster.state
    for options in (("--until-idle",), ("--state-dir", str(cluster.directory / "elsewhere"))):
        cluster.state = None if "--state-dir" in options else state
        before = cluster.log()
        environment = {"DISBATCH_SUPERVISOR": "", "DISBATCH_STATE_DIR": str(state)}
        assert cluster.start(*options, env=environment).wait(60) == ExitCode.NODE_ID_IN_USE
        cluster.state = state
        log = cluster.log().removeprefix(before)
        assert f"node n1 has 3 runs in {home}, which this one cannot go on with" in log and "Traceback" not in log
    assert {cluster.task(one).status for one in ids} == {Status.RUNNING}
    start(cluster)
    assert_all_end_well(cluster, ids)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_process_that_is_taken_over_by_force_ends_with_5_and_its_runs_go_on(
    keeping: Cluster, is_stopped: bool
) -> None:
    """Whatever it has: runs, worker processes with a task and without; also if it stands still and wakes up later."""
    cluster = keeping
    first = start(cluster)
    ids = running(cluster)
    cluster.plugin("W", WORKER, file="w.py", mode="worker")
    first.send_signal(signal.SIGHUP)
    queue = cluster.queue("W", maxthreads=2)
    holds, quick = cluster.push(queue, {"hold": True}, {"hold": False})
    cluster.wait_for_status(quick, Status.CONCLUDED, within_seconds=60)
    wait_until(lambda: "begun" in cluster.task(holds).document["stdout"], 60, "it did not begin")
    if is_stopped:
        cluster.stop_outside_of_a_commit(first)
    second = start(cluster, "--force")
    wait_until(lambda: cluster.task(holds).run.get("adopted"), 60, "nobody goes on with it")
    if is_stopped:
        first.send_signal(signal.SIGCONT)
    assert first.wait(30) == ExitCode.NODE_ID_IN_USE
    assert "another process of this node was started by force" in cluster.log()
    assert (f"process {first.pid}, which had this id before, still holds" in cluster.log()) is is_stopped
    assert_all_end_well(cluster, [*ids, holds])
    second.terminate()
    assert second.wait(30) == 0
    assert "Traceback" not in cluster.log()


def test_a_node_whose_id_was_taken_on_another_machine_stops_what_is_not_its_own_any_more(keeping: Cluster) -> None:
    """Nobody else would: the node that has the id cannot reach the processes here."""
    cluster = keeping
    first = start(cluster)
    lost, kept = running(cluster, 2)
    pids = {task: int(pid) for task, pid in starts(cluster)}
    first.kill()
    first.wait(30)
    record = node(cluster)
    elsewhere = {name: f"{value}-2" for name, value in record.document["host"].items()}
    cluster.store.put_node({**record.document, "session": "another", "host": elsewhere}, replacing=record)
    claim = {"token": "another", "at": cluster.store.now()}
    key = RunKey(lost, "n1", cluster.task(lost).token)
    assert not cluster.store.commit([RunChange(key=key, statuses=(Status.RUNNING,), set={"claim": claim})])

    assert cluster.start("--dead-after", "1h").wait(60) == ExitCode.NODE_ID_IN_USE
    assert "a task that is not this node's any more; it is stopped" in cluster.log()
    wait_until(lambda: facts.process_started(pids[str(lost)]) is None, 30, "it was not stopped")
    assert facts.process_started(pids[str(kept)]) is not None
    assert cluster.task(lost).document["claim"]["token"] == "another"
    assert node(cluster).session == "another"

    assert cluster.store.remove_node("n1", "another")
    start(cluster)
    assert_all_end_well(cluster, [kept])
    assert [task for task, _ in starts(cluster)].count(str(lost)) == 1


@pytest.mark.parametrize("what", ["lost", "of an older back-up"])
def test_a_session_that_the_store_has_forgotten_keeps_no_node_from_its_runs(keeping: Cluster, what: str) -> None:
    cluster = keeping

    def adoptions(ids: list[Any]) -> set[int]:
        return {len(cluster.task(one).run.get("adopted", ())) for one in ids}

    first = start(cluster)
    ids = running(cluster, 2)
    for session in (2, 3):
        first.kill()
        first.wait(30)
        first = start(cluster)
        wait_until(
            lambda wanted=session: all(len(cluster.task(one).run.get("adopted", ())) == wanted - 1 for one in ids)
        )
    first.kill()
    first.wait(30)
    note = cluster.store.read_note("session of node n1")
    assert note is not None and note["session"] == 3
    assert cluster.store.write_note("session of node n1", {"session": 0 if what == "lost" else 1}, replacing=note)
    start(cluster)
    wait_until(lambda: "the supervisor of the runs has known session 3 of this node" in cluster.log(), 30)
    assert_all_end_well(cluster, ids)
    note = cluster.store.read_note("session of node n1")
    assert note is not None and note["session"] == 4


@on_sqlite
def test_an_end_that_the_store_could_not_take_before_the_node_left_is_recorded_by_the_next_one(
    keeping: Cluster,
) -> None:
    """The node acknowledged it all the same, its supervisor forgot it, and the task was taken for never started: it ran
    twice."""
    cluster = keeping
    cluster.plugin(
        "Hold", f'{BEGIN}; echo begun; while ! [ -e "$DISBATCH_PLUGIN_DIR/$DISBATCH_TASK_ID" ]; do sleep 0.1; done'
    )
    first, second = ids = cluster.push(cluster.queue("Hold", maxthreads=2), {}, {})
    leaving = start(cluster)
    for task_id in ids:
        wait_until(lambda one=task_id: cluster.task(one).document["stdout"] == "begun\n", 30, "nothing was written")
    directory = next((cluster.directory / "state").glob("n1-*"))
    lock = sqlite3.connect(cluster.url.removeprefix("sqlite://"), isolation_level=None)
    with contextlib.closing(lock):
        lock.execute("BEGIN IMMEDIATE")
        (cluster.plugins / "Hold" / str(first)).touch()
        listed = [supervisors.program(), "--list", directory]
        wait_until(lambda: b"ended" in subprocess.run(listed, capture_output=True, check=True).stdout, 30)
        leaving.send_signal(signal.SIGUSR2)
        wait_until(lambda: not is_pending(leaving.pid, signal.SIGUSR2), 30)
        leaving.terminate()  # it hurries: SQLite waits 30 s for its turn
        assert leaving.wait(60) == ExitCode.STORE
        assert cluster.task(first).status == Status.RUNNING
    start(cluster)
    (cluster.plugins / "Hold" / str(second)).touch()
    for task_id in ids:
        assert cluster.wait_for_status(task_id, Status.CONCLUDED, within_seconds=60).document["stdout"] == "begun\n"
    assert sorted(one for one, _ in starts(cluster)) == sorted(map(str, ids))

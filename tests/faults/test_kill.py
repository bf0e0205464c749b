"""kill -9 of a node at random moments under load, then an account of every single task: how often its program really
started (each start and each end appends a line to a file) against what the documents say."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.documents.changes import RunChange, RunKey
from disbatch_host.process import facts, leftovers
from disbatch_protocol.status import Status
from helpers import accounts
from helpers.accounts import Account
from helpers.nodes import Cluster
from helpers.processes import wait_until
from helpers.stores import on_sqlite
from helpers.supervisors import kill_with_supervisor

pytestmark = pytest.mark.timeout(300)  # on a machine that is busy with much else

PROGRAM = 'echo "start $DISBATCH_TASK_ID" >>{trace}; sleep 0.0$(( $$ % 7 )); echo "end $DISBATCH_TASK_ID" >>{trace}'


@pytest.mark.parametrize(
    ("rounds", "tasks_a_round"), [(4, 50), pytest.param(20, 100, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
def test_nothing_is_lost_or_started_twice_however_often_a_node_is_killed(
    cluster: Cluster, rounds: int, tasks_a_round: int
) -> None:
    trace = cluster.directory / "trace"
    cluster.plugin("Once", PROGRAM.format(trace=trace))
    cluster.plugin("Again", PROGRAM.format(trace=trace), idempotent=True)
    once = cluster.push(cluster.queue("Once", maxthreads=4), *({} for _ in range(tasks_a_round * rounds)))
    again = cluster.push(cluster.queue("Again", maxthreads=4), *({} for _ in range(tasks_a_round * rounds)))
    chance = random.Random(rounds)
    for number in range(rounds):
        process = cluster.start(node_id="n1")
        wanted = lines(trace) + chance.randrange(20, 3 * tasks_a_round // 2)
        wait_until(lambda wanted=wanted: lines(trace) >= wanted, 60, f"round {number} did not get on")
        process.kill()
        process.wait()
    cluster.run(node_id="n1", timeout_seconds=300)
    starts, ends = (marks(trace, mark) for mark in ("start", "end"))
    tasks = {task.id: task for task in cluster.tasks()}
    assert set(tasks) == {*once, *again}
    for task_id in once:
        task = tasks[task_id]
        assert starts[str(task_id)] <= 1, f"task {task_id} was started {starts[str(task_id)]} times"
        if task.status == Status.CONCLUDED:
            assert ends[str(task_id)] == 1
        else:
            assert task.status == Status.ORPHANED and task.node == "n1"
            assert task.document["error"]["code"] == "lost"
            assert "node n1 was lost while this task ran" in task.document["error"]["message"]
            assert (task.run["reason"], task.run["outcome"]) == ("lost", "orphaned")
    for task_id in again:
        task = tasks[task_id]
        assert task.status == Status.CONCLUDED
        assert ends[str(task_id)] >= 1
        # Started more often than the document tells: never. Less often: where the node was killed before the start.
        assert starts[str(task_id)] <= task.run["attempt"] == len(task.attempts) + 1
        assert all(attempt["error"]["code"] == "lost" for attempt in task.attempts)
    # Those that ran at a kill, and no others.
    assert sum(tasks[task_id].status == Status.ORPHANED for task_id in once) <= 4 * rounds
    assert sum(len(tasks[task_id].attempts) for task_id in again) <= 4 * rounds


def lines(trace: Path) -> int:
    return trace.read_bytes().count(b"\n") if trace.exists() else 0


def marks(trace: Path, mark: str) -> Counter[str]:
    return Counter(line.split()[1] for line in trace.read_text().splitlines() if line.startswith(mark))


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with accounts.account(tmp_path / "account") as one:
        yield one


@pytest.mark.parametrize("mode", ["oneshot", "worker"])
def test_processes_that_outlive_their_node_are_gone_before_anything_is_started(
    cluster: Cluster, account: Account, mode: str
) -> None:
    """They ignore SIGTERM and the end of their stdin. The first process of the next life looks for them itself."""
    for name, idempotent in (("Once", False), ("Again", True)):
        cluster.plugin(name, account.program, file="hold.py", mode=mode, idempotent=idempotent)
    once = cluster.push(cluster.queue("Once", maxthreads=2), *({"stubborn": True} for _ in range(2)))
    again = cluster.push(cluster.queue("Again", maxthreads=2), *({"stubborn": True} for _ in range(2)))
    (waiting,) = cluster.push("Once", {})
    node = cluster.start()
    wait_until(lambda: len(account.lines("start")) == 4, 60, "not all have started")
    old = account.lines("start")
    kill_with_supervisor(node)
    assert all(leftovers.is_alive(one.pid, one.pid_started) for one in old)
    account.begin_another_life()
    account.let_go("n1", life=2)
    log = cluster.run()
    assert [one.left_over for one in account.lines("start")] == [0, 0, 0]
    assert not any(leftovers.is_alive(one.pid, one.pid_started) for one in old)
    for one in old:
        assert f"process {one.pid} is left from an earlier life of node n1; it is killed" in log
    assert {one.task for one in account.lines("start")} == {str(task_id) for task_id in (*again, waiting)}
    assert {one.task for one in account.lines("end")} == {str(task_id) for task_id in (*again, waiting)}
    for task_id in once:
        task = cluster.task(task_id)
        assert (task.status, task.document["error"]["code"]) == (Status.ORPHANED, "lost")
        assert task.document["stdout"] in ("", "begun on n1\n")  # as far as it had been written
    for task_id in again:
        task = cluster.task(task_id)
        assert (task.status, task.run["attempt"]) == (Status.CONCLUDED, 2)
        assert task.document["stdout"] == "begun on n1\nended on n1\n"
    assert cluster.task(waiting).run["attempt"] == 1


@on_sqlite
def test_a_process_that_was_given_the_number_of_an_old_one_is_left_alone(cluster: Cluster, account: Account) -> None:
    """The old process is gone and somebody else has its pid: told apart by the time of its start."""
    cluster.plugin("Once", account.program, file="hold.py")
    (task_id,) = cluster.push(cluster.queue("Once"), {})
    node = cluster.start()
    wait_until(lambda: account.lines("start"), 60, "it did not start")
    wait_until(lambda: "pid_started" in cluster.task(task_id).run, 60, "the pid was not written down")
    kill_with_supervisor(node)
    (old,) = account.lines("start")
    task = cluster.task(task_id)
    assert (task.run["pid"], task.run["pid_started"]) == (old.pid, old.pid_started)
    os.killpg(old.pid, signal.SIGKILL)
    wait_until(lambda: facts.process_started(old.pid) is None, 60, "the old process is still there")
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as innocent:
        # A pid that comes again takes as many processes as there are pids: written down as it would look then.
        run = {**task.run, "pid": innocent.pid}
        assert rewritten(cluster, task, run)
        log = cluster.run()
        assert innocent.poll() is None
        innocent.kill()
    assert "is killed" not in log
    assert cluster.task(task_id).status == Status.ORPHANED


def rewritten(cluster: Cluster, task: Any, run: dict[str, Any]) -> bool:
    key = RunKey(task.id, "n1", task.token)
    return not cluster.store.commit([RunChange(key=key, statuses=(Status.RUNNING,), set={"run": run})])

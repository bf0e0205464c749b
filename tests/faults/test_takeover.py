"""A node that was stopped for longer than `dead_after` while another one was there, and then goes on: SIGSTOP and
SIGCONT, as a suspended virtual machine or a very long pause would have it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.process import leftovers
from disbatch_protocol.status import Status
from helpers import accounts
from helpers.accounts import Account
from helpers.nodes import QUICK_TO_NOTICE, Cluster
from helpers.processes import wait_until

pytestmark = pytest.mark.timeout(300)  # on a machine that is busy with much else
QUICK = ("--heartbeat", "0.3", "--dead-after", "3")
NOTICE_SECONDS = (
    3.0  # from SIGCONT until stale processes are gone: a heartbeat, a look at the tasks, a signal; and load
)


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with accounts.account(tmp_path / "account") as one:
        yield one


class Takeover:
    """Two nodes; n1 runs four tasks, two of them idempotent, when it is stopped, and n2 may then run all queues."""

    def __init__(self, cluster: Cluster, account: Account, *, mode: str, n2_through: tuple[str, ...] = ()) -> None:
        self.cluster, self.account = cluster, account
        for name, idempotent in (("Once", False), ("Again", True)):
            cluster.plugin(
                name, account.program, file="hold.py", mode=mode, idempotent=idempotent, kill_grace="500ms",
            )  # fmt: skip
            cluster.queue(name, maxthreads=2, nodes_pin=["n1"])
        self.once = cluster.push("Once", {}, {})
        self.again = cluster.push("Again", {}, {"stubborn": True})
        self.n1 = cluster.start(*QUICK, node_id="n1", pace=QUICK_TO_NOTICE)
        self.n2 = cluster.start(*QUICK, node_id="n2", through=n2_through, pace=QUICK_TO_NOTICE)
        wait_until(lambda: len(account.lines("start")) == 4, 60, "n1 has not started its tasks")
        wait_until(lambda: self.node_ids() == {"n1", "n2"}, 60, "not both nodes are there")
        wait_until(lambda: all("pid" in task.run for task in cluster.tasks()), 60, "not all is written down")
        self.old = account.lines("start")

    def node_ids(self) -> set[str]:
        return {node.id for node in self.cluster.store.nodes()}

    def stop_n1_until_n2_has_taken_over(self) -> None:
        self.cluster.stop_outside_of_a_commit(self.n1)
        for queue in ("Once", "Again"):
            self.cluster.store.update_queue(queue, {}, unset=("nodes_pin",))
        wait_until(lambda: len(self.account.lines("start")) == 6, 60, "n2 has not taken over")
        for task_id in self.once:
            self.cluster.wait_for_status(task_id, Status.ORPHANED, within_seconds=60)
        for task_id in self.again:
            wait_until(lambda task_id=task_id: self.is_all_written(task_id), 60, "n2 has not written what it knows")

    def is_all_written(self, task_id: Any) -> bool:
        task = self.cluster.task(task_id)
        return task.node == "n2" and "pid_started" in task.run and task.document["stdout"] == "begun on n2\n"

    def wake_n1_until_it_has_noticed(self) -> float:
        """When it was woken, by the monotonic clock of the machine."""
        before = self.documents()
        for queue in ("Once", "Again"):  # it shall take part again, but not yet
            self.cluster.store.update_queue(queue, {"nodes_ignore": ["n1"]})
        woken = time.monotonic()
        self.n1.send_signal(signal.SIGCONT)
        for task_id in (*self.once, *self.again):
            wait_until(lambda task_id=task_id: self.says_of(task_id), 60, f"n1 does not say that {task_id} is not its")
        wait_until(lambda: "this node was silent for" in self.cluster.log("n1"), 60, "n1 does not say why")
        wait_until(lambda: not any(self.is_alive(one) for one in self.old), 60, "stale processes are left")
        wait_until(lambda: self.processing("n1") == 0, 60, "n1 still counts them as its own")
        assert self.documents() == before  # nothing of what n1 knew has come into the store
        return woken

    def says_of(self, task_id: Any) -> bool:
        return f"task {task_id} was taken over" in self.cluster.log("n1")

    def is_alive(self, line: Any) -> bool:
        return leftovers.is_alive(line.pid, line.pid_started)

    def processing(self, node_id: str) -> int:
        record = self.cluster.store.get_node(node_id)
        assert record is not None
        return sum(queue["processing"] for queue in record.document["heartbeat"]["queues"])

    def documents(self) -> dict[Any, Any]:
        return {task.id: dict(task.document) for task in self.cluster.tasks() if task.id in (*self.once, *self.again)}

    def let_n2_finish(self) -> None:
        self.account.let_go("n2")
        for task_id in self.again:
            self.cluster.wait_for_status(task_id, Status.CONCLUDED, within_seconds=60)

    def check_account(self) -> None:
        for task_id in self.once:
            task = self.cluster.task(task_id)
            assert (task.status, task.node, task.document["error"]["code"]) == (Status.ORPHANED, "n1", "lost")
            assert [one.node for one in self.account.lines("start", task_id)] == ["n1"]
            assert self.account.lines("end", task_id) == []
        for task_id in self.again:
            task = self.cluster.task(task_id)
            assert (task.status, task.node, task.run["node"], task.run["attempt"]) == (1, "n2", "n2", 2)
            assert task.document["stdout"] == "begun on n2\nended on n2\n"
            assert "error" not in task.document
            (attempt,) = task.attempts
            assert (attempt["node"], attempt["reason"], attempt["error"]["code"]) == ("n1", "lost", "lost")
            assert [one.node for one in self.account.lines("start", task_id)] == ["n1", "n2"]
            assert [one.node for one in self.account.lines("end", task_id)] == ["n2"]

    def check_that_n1_works_on(self) -> None:
        """It is a node like any other afterwards. Alone: on a busy machine n2 may take it for dead once more."""
        os.killpg(self.n2.pid, signal.SIGKILL)
        self.n2.wait(60)
        (task_id,) = self.cluster.push(self.cluster.queue("Once", "last", nodes_pin=["n1"]), {})
        self.account.let_go("n1")
        assert self.cluster.wait_for_status(task_id, Status.CONCLUDED, within_seconds=60).node == "n1"
        self.n1.terminate()
        assert self.n1.wait(60) == 0


@pytest.mark.parametrize("mode", ["oneshot", "worker"])
def test_a_node_that_was_stopped_for_too_long_changes_nothing_and_stops_what_is_stale(
    cluster: Cluster, account: Account, mode: str
) -> None:
    """On one machine: the node that takes over kills the processes of the stopped one before it gives back a task, so
    the old and the new run never run at once."""
    both = Takeover(cluster, account, mode=mode)
    both.stop_n1_until_n2_has_taken_over()
    assert not any(both.is_alive(one) for one in both.old)
    for task_id in both.again:
        second = account.lines("start", task_id)[1]
        assert account.last_alive(task_id, 1) < second.at
    both.wake_n1_until_it_has_noticed()
    both.let_n2_finish()
    both.check_account()
    both.check_that_n1_works_on()


@pytest.mark.mongodb
@pytest.mark.parametrize("store_url", ["mongodb"], indirect=True)
@pytest.mark.parametrize("mode", ["oneshot", "worker"])
def test_stale_processes_on_another_machine_end_as_soon_as_their_node_goes_on(
    cluster: Cluster, account: Account, mode: str, other_machine: tuple[str, ...]
) -> None:
    """Nobody there can stop them while their node cannot: an idempotent task is run twice at once for so long."""
    both = Takeover(cluster, account, mode=mode, n2_through=other_machine)
    both.stop_n1_until_n2_has_taken_over()
    assert all(both.is_alive(one) for one in both.old)
    woken = both.wake_n1_until_it_has_noticed()
    for task_id in (*both.once, *both.again):
        assert account.last_alive(task_id, 1) < woken + NOTICE_SECONDS
    both.let_n2_finish()
    both.check_account()
    both.check_that_n1_works_on()


@pytest.fixture
def other_machine(require: Callable[[str], None]) -> tuple[str, ...]:
    """A command that runs a node where no process of this machine can be seen or killed: what tells machines apart is
    different there."""
    from conftest import skip_or_fail

    require("unshare")
    for rights in ((), ("--user", "--map-root-user")):
        command = ("unshare", *rights, "--pid", "--fork", "--mount-proc", "--kill-child")
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    skip_or_fail("no right to make a PID namespace")
    raise AssertionError

"""Wrong clocks and jumping clocks: no node is taken for dead that lives, nothing starts before its time, and time
limits do not notice. That dead nodes are found all the same shows that somebody has looked."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from disbatch_protocol.status import Status
from helpers.nodes import Cluster
from helpers.odd_clocks import OddClock, start_node
from helpers.processes import assert_group_is_gone, wait_until

HOLD = "echo begun; while ! test -e {gate}; do sleep 0.1; done; echo ended"


@pytest.fixture
def clock(tmp_path: Path) -> OddClock:
    one = OddClock(tmp_path / "clock")
    one.set(0)
    return one


class Held:
    """Nodes that each hold one task, pinned to them, until the gate opens."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.gate = cluster.directory / "gate"
        cluster.plugin("Hold", HOLD.format(gate=self.gate), timeout="600s")
        self.tasks: dict[str, Any] = {}
        self.nodes: dict[str, subprocess.Popen[str]] = {}

    def start(self, node_id: str, clock: Path) -> None:
        queue = self.cluster.queue("Hold", f"of_{node_id}", nodes_pin=[node_id])
        (self.tasks[node_id],) = self.cluster.push(queue, {})
        self.nodes[node_id] = start_node(self.cluster, node_id, clock, heartbeat_seconds=0.2, dead_after_seconds=3)
        task_id = self.tasks[node_id]
        wait_until(lambda: self.cluster.task(task_id).document["stdout"] == "begun\n", 20, f"{node_id} did not begin")

    def kill(self, node_id: str) -> None:
        self.nodes[node_id].kill()
        self.nodes.pop(node_id).wait()

    def wait_for_settling(self, node_id: str) -> None:
        task = self.cluster.wait_for_status(self.tasks.pop(node_id), Status.ORPHANED, within_seconds=30)
        assert_group_is_gone(task.run["pid"])

    def end(self) -> None:
        """Nobody else was taken for dead: their tasks have run once, to their end."""
        self.gate.touch()
        for node_id, task_id in self.tasks.items():
            task = self.cluster.wait_for_status(task_id, Status.CONCLUDED)
            assert (task.document["stdout"], task.run["attempt"], task.attempts) == ("begun\nended\n", 1, [])
            assert 0 <= task.run["seconds"] < 600
            assert task.document["node"] == node_id
        for node_id, process in self.nodes.items():
            process.terminate()
            assert process.wait(30) == 0
            assert_group_is_gone(process.pid)
            assert "was silent" not in self.cluster.log(node_id) and "taken over" not in self.cluster.log(node_id)
            for other in self.nodes:
                assert f"node {other} is dead" not in self.cluster.log(node_id)


@pytest.mark.mongodb
def test_nodes_whose_clocks_are_minutes_apart_do_not_take_each_other_for_dead(mongo_cluster: Cluster) -> None:
    held = Held(mongo_cluster)
    for node_id, seconds in (("behind", -300), ("right", 0), ("ahead", 300)):
        clock = OddClock(mongo_cluster.directory / f"clock-{node_id}")
        clock.set(seconds)
        held.start(node_id, clock.path)
    held.kill("right")
    held.wait_for_settling("right")
    started = [mongo_cluster.task(held.tasks[node_id]).run["started"] for node_id in ("behind", "ahead")]
    assert abs(started[0] - started[1]) < timedelta(seconds=60), "documents are dated by the server's clock"
    held.end()


def test_a_clock_that_jumps_makes_nobody_dead_and_stops_nothing(cluster: Cluster, clock: OddClock) -> None:
    """Before, whoever looked first after a jump by more than `dead_after` took every node of the machine for dead,
    killed what it ran and marked it as orphaned."""
    held = Held(cluster)
    for node_id in ("n1", "n2", "n3", "n4"):
        held.start(node_id, clock.path)
    clock.set(3600)
    held.kill("n3")
    held.wait_for_settling("n3")
    held.kill("n4")
    clock.set(-3600)  # its last heartbeat is two hours ahead now
    held.wait_for_settling("n4")
    held.end()


def test_time_limits_do_not_notice_that_the_clock_jumps(cluster: Cluster, clock: OddClock) -> None:
    cluster.plugin("Short", "echo begun; exec sleep 600", timeout="1.5s")
    cluster.plugin("Idle", "echo begun; exec sleep 600", idle_timeout="1.5s")
    tasks = [*cluster.push(cluster.queue("Short"), {}), *cluster.push(cluster.queue("Idle"), {})]
    process = start_node(cluster, "n1", clock.path, heartbeat_seconds=0.2, dead_after_seconds=30)
    for task_id in tasks:
        wait_until(lambda task_id=task_id: cluster.task(task_id).document["stdout"] == "begun\n", 20, "did not begin")
    clock.set(-3600)
    for task_id, reason in zip(tasks, ("timeout", "idle_timeout"), strict=True):
        task = cluster.wait_for_status(task_id, Status.TERMINATED)
        assert task.run["reason"] == reason and 1.4 <= task.run["seconds"] < 15
    process.terminate()
    assert process.wait(30) == 0
    assert_group_is_gone(process.pid)


@pytest.mark.mongodb
def test_nothing_starts_before_its_time_whatever_the_clocks_of_the_nodes_say(mongo_cluster: Cluster) -> None:
    cluster = mongo_cluster
    trace = cluster.directory / "trace"
    cluster.plugin("Later", f"date +%s.%N >>{trace}.later")
    cluster.plugin("Again", f"date +%s.%N >>{trace}.again; exit 75", retry={"max": 1, "delay": "3s", "jitter": 0})
    clocks = []
    for node_id, seconds in (("behind", -300), ("ahead", 300)):
        clock = OddClock(cluster.directory / f"clock-{node_id}")
        clock.set(seconds)
        clocks.append(clock)
        start_node(cluster, node_id, clock.path, heartbeat_seconds=0.2, dead_after_seconds=30)
    due = cluster.store.now() + timedelta(seconds=3)
    (later,) = cluster.push(cluster.queue("Later"), {}, status=int(Status.BLOCKED), not_before=due)
    (again,) = cluster.push(cluster.queue("Again"), {})
    cluster.wait_for_status(again, Status.BLOCKED)
    for clock in clocks:
        clock.set(3600)
    cluster.wait_for_status(later, Status.CONCLUDED)
    cluster.wait_for_status(again, Status.FAILED)
    (started,) = times(trace.with_suffix(".later"))
    assert started >= due.timestamp() - 0.01  # a date has whole milliseconds
    first, second = times(trace.with_suffix(".again"))
    assert second - first >= 2.99
    for process in cluster.processes:
        process.terminate()
        assert process.wait(30) == 0
        assert_group_is_gone(process.pid)


def times(path: Path) -> list[float]:
    return [float(line) for line in path.read_text().split()]

"""kill -9 of a node at random moments under load, then an account of every single task: how often its program really
started (each start and each end appends a line to a file) against what the documents say."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from disbatch_protocol.status import Status
from helpers.nodes import Cluster
from helpers.processes import wait_until

PROGRAM = 'echo "start $DISBATCH_TASK_ID" >>{trace}; sleep 0.0$(( $$ % 7 )); echo "end $DISBATCH_TASK_ID" >>{trace}'


@pytest.mark.parametrize("rounds", [4, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_nothing_is_lost_or_started_twice_however_often_a_node_is_killed(cluster: Cluster, rounds: int) -> None:
    trace = cluster.directory / "trace"
    cluster.plugin("Once", PROGRAM.format(trace=trace))
    cluster.plugin("Again", PROGRAM.format(trace=trace), idempotent=True)
    once = cluster.push(cluster.queue("Once", maxthreads=4), *({} for _ in range(100 * rounds)))
    again = cluster.push(cluster.queue("Again", maxthreads=4), *({} for _ in range(100 * rounds)))
    chance = random.Random(rounds)
    for number in range(rounds):
        process = cluster.start(node_id="n1")
        wanted = lines(trace) + chance.randrange(20, 150)
        wait_until(lambda wanted=wanted: lines(trace) >= wanted, 60, f"round {number} did not get on")
        process.kill()
        process.wait()
    cluster.run(node_id="n1", timeout_seconds=300)
    starts, ends = (marks(trace, mark) for mark in ("start", "end"))
    for task_id in once:
        status = cluster.task(task_id).status
        assert starts[str(task_id)] <= 1, f"task {task_id} was started {starts[str(task_id)]} times"
        if status == Status.CONCLUDED:
            assert ends[str(task_id)] == 1
        else:
            task = cluster.task(task_id)
            assert status == Status.ORPHANED and task.document["error"]["code"] == "lost"
    for task_id in again:
        assert cluster.task(task_id).status == Status.CONCLUDED
        assert ends[str(task_id)] >= 1
    lost = sum(1 for task_id in once if cluster.task(task_id).status == Status.ORPHANED)
    assert lost <= 4 * rounds


def lines(trace: Path) -> int:
    return trace.read_bytes().count(b"\n") if trace.exists() else 0


def marks(trace: Path, mark: str) -> Counter[str]:
    return Counter(line.split()[1] for line in trace.read_text().splitlines() if line.startswith(mark))

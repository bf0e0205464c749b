"""Thousands of tasks on four worker processes, one of which is killed now and then: none is lost, none mixed up."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status
from helpers.nodes import Cluster
from helpers.processes import wait_until

TASKS_A_KILL = 100  # so many tasks are concluded between two kills; by time, a slow machine would do nothing else
# Each start of a task is written to a file of the process's own before anything is printed.
WORKER = """#!/usr/bin/env python3
import json, os, sys
events = os.fdopen(3, "wb", buffering=0)
account = open(f"{os.environ['ACCOUNT']}/{os.getpid()}", "a", buffering=1)
sys.stdin.readline()
events.write(b'{"type":"ready","protocol":1}\\n')
for line in sys.stdin:
    n = json.loads(line)["task"]["parameters"]["n"]
    print(n, file=account)
    print(f"out {n}")
    print(f"err {n}", file=sys.stderr)
    events.write(b'{"type":"result","value":%d}\\n{"type":"done","exit":0}\\n' % n)
"""


@pytest.mark.parametrize("count", [700, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
def test_no_task_is_lost_or_mixed_up_when_workers_are_killed_at_random(cluster: Cluster, count: int) -> None:
    account = cluster.directory / "account"
    account.mkdir()
    cluster.plugin(
        "W", WORKER, file="w.py", mode="worker", env={"ACCOUNT": str(account)}, retry={"max": 1000, "delay": 0}
    )
    queue = cluster.queue("W", maxthreads=4)
    cluster.push(queue, *({"n": n} for n in range(count)))
    node = cluster.start()
    chance = random.Random(4)
    kills = 0
    next_kill = TASKS_A_KILL

    def is_done_after_another_kill() -> bool:
        nonlocal kills, next_kill
        counts = cluster.store.count_by_status().get(queue, {})
        finished = sum(count for status, count in counts.items() if statuses.is_finished(status))
        living = [int(path.name) for path in account.iterdir() if is_worker(int(path.name))]
        if living and finished >= next_kill:
            os.kill(chance.choice(living), signal.SIGKILL)
            kills += 1
            next_kill = finished + chance.randrange(2 * TASKS_A_KILL)
        return finished == count

    def is_worker(pid: int) -> bool:
        try:
            return b"DISBATCH_CLASS=W" in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    wait_until(is_done_after_another_kill, 240, "not all tasks were concluded")
    node.terminate()
    assert node.wait(30) == 0

    tasks = cluster.tasks()
    assert len(tasks) == count and {task.status for task in tasks} == {Status.CONCLUDED}
    for task in tasks:
        n = task.document["parameters"]["n"]
        said = (task.document["stdout"], task.document["stderr"], task.document["result"])
        assert said == (f"out {n}\n", f"err {n}\n", n)
    starts = Counter(int(line) for path in account.iterdir() for line in path.read_text().split())
    assert set(starts) == set(range(count))
    for task in tasks:
        # As many starts as attempts that were used: none ran without the document saying so.
        used = task.run["attempt"]
        assert 1 <= starts[task.document["parameters"]["n"]] <= used, task.document
    assert kills >= count / 300, kills

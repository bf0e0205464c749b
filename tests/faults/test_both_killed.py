"""kill -9 of a node, of the supervisor of its runs, and of both, at random moments under load; then an account of every
start of a program against what the documents say."""

from __future__ import annotations

import os
import random
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.documents.records import Task
from disbatch_protocol.status import Status
from helpers import accounts, forked, supervisors
from helpers.accounts import Account, Line
from helpers.nodes import QUICK_TO_SEE, Cluster
from helpers.processes import wait_until

pytestmark = [supervisors.usable(), pytest.mark.timeout(300)]

PLACES = 6  # of each class
TASKS_A_ROUND = 20  # of each class
CLASSES = {
    "Once": {"idempotent": False},
    "Again": {"idempotent": True},
    "Worker": {"idempotent": True, "mode": "worker", "file": "hold.py"},
}
# After three within a minute a node does without one (process/supervised.py): then its runs would die with the node.
ENDS_WITHIN_A_LIFE = 2


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with accounts.account(tmp_path / "account") as one:
        one.let_go("n1")
        yield one


class Killing:
    """A node with a home that is killed again and again, and the supervisors that were killed."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self._ends = 0  # of supervisors, while this process of the node lived
        self.dead: set[str] = set()
        self.node = self._start()

    def _start(self) -> forked.Started:
        self._ends = 0
        return self._cluster.start("--max", "30", pace=QUICK_TO_SEE)

    def strike(self, what: str) -> None:
        """Kill `node`, `supervisor` or `both`; another node is there at once."""
        strikes = {"node": [self._kill_node], "supervisor": [self._kill_supervisors]}
        strikes["both"] = strikes["node"] + strikes["supervisor"]
        self._chance.shuffle(strikes[what])
        for kill in strikes[what]:
            kill()
        if what != "supervisor":
            self.node.wait(30)
            self.node = self._start()

    def choose(self) -> str:
        choices = ["node", "both", "supervisor"]
        return self._chance.choice(choices if self._ends < ENDS_WITHIN_A_LIFE else choices[:2])

    def _kill_node(self) -> None:
        self.node.kill()

    def _kill_supervisors(self) -> None:
        for pid, identity in supervisors.living_below(self._cluster.directory / "state"):
            os.kill(pid, signal.SIGKILL)
            self.dead.add(identity)
        self._ends += 1


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_no_task_is_lost_and_none_runs_twice_unless_its_run_died_with_its_supervisor(
    cluster: Cluster, account: Account, rounds: int
) -> None:
    cluster.keep_runs()
    for name, manifest in CLASSES.items():
        program = account.program if name == "Worker" else account.passing_program
        cluster.plugin(name, program, **manifest)
        cluster.push(cluster.queue(name, maxthreads=PLACES), *({},) * (TASKS_A_ROUND * rounds))
    chance = random.Random(rounds)
    killing = Killing(cluster, chance)
    struck = []
    # Each of the three at least once, the others by chance.
    for number, first in enumerate(["both", "supervisor", "node", *[""] * (rounds - 3)]):
        wanted = len(account.lines("start")) + chance.randrange(20, 50)
        wait_until(lambda wanted=wanted: len(account.lines("start")) >= wanted, 60, f"round {number} did not get on")
        struck.append(first or killing.choose())
        killing.strike(struck[-1])
    cluster.wait_for_all(120)
    killing.node.terminate()
    assert killing.node.wait(30) == 0

    tasks = cluster.tasks()
    assert len(tasks) == TASKS_A_ROUND * rounds * len(CLASSES)
    starts, ends = by_task(account.lines("start")), by_task(account.lines("end"))
    for task in tasks:
        check(task, starts[str(task.id)], ends[str(task.id)], killing.dead)
    died_at = sum(what != "node" for what in struck) * PLACES
    for name in CLASSES:
        lost = sum(len(used_of(task)) + (task.status == Status.ORPHANED) for task in tasks if task.queue == name)
        assert lost <= died_at, f"{name}: {lost} were lost, and {died_at} at most ran when a supervisor was killed"
    assert sum(len(used_of(task)) for task in tasks) > 0, "nothing ran at any kill"
    assert sum("adopted" in task.run for task in tasks) > 0, "nothing went on without its node"


def used_of(task: Task) -> list[dict[str, Any]]:
    """The attempts before the last one, without those that had certainly not been started."""
    return [one for one in task.attempts if one.get("attempt_used", True)]


def by_task(lines: list[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        found[line.task].append(line)
    return found


def check(task: Task, starts: list[Line], ends: list[Line], dead: set[str]) -> None:
    """What really ran against what the document says; `dead`: the supervisors that were killed."""
    shown = (task.document, starts, ends)
    assert [one.left_over for one in starts] == [0] * len(starts), shown
    attempts = [one.attempt for one in starts]
    # Fewer where it was killed before it could write; none that the document does not tell.
    last = task.run["attempt"]
    used = used_of(task)
    assert attempts == sorted({*attempts} & set(range(1, last + 1))) and last == len(used) + 1, shown
    assert {one.supervisor for one in starts if one.attempt < last} <= dead, shown
    assert {one["error"]["code"] for one in used} <= {"lost"}, shown
    if task.status == Status.ORPHANED:
        assert task.queue == "Once" and task.document["error"]["code"] == "lost", shown
        assert task.run["supervisor"] in dead and len(starts) <= 1, shown
        return
    assert task.status == Status.CONCLUDED and task.run["reason"] in ("exited", "done"), shown
    # Also what could not be recorded any more: it has ended, and its supervisor was killed before it was told.
    assert [one.attempt for one in starts].count(last) == 1 and [one.attempt for one in ends].count(last) == 1, shown
    if task.queue == "Once":
        assert (len(starts), len(ends), used) == (1, 1, []), shown

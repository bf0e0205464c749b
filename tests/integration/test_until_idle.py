"""--until-idle means idle: what the ends of tasks set free is run, what is left is named; both stores."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import statistics
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo as driver

from disbatch_protocol.status import Status
from helpers.nodes import QUICK_TO_NOTICE, Cluster
from helpers.processes import wait_until
from helpers.stores import end

NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def chain(cluster: Cluster, queue: Any, length: int) -> list[Any]:
    ids: list[Any] = []
    for _ in range(length):
        ids += cluster.push(queue, {}, **({"status": int(Status.BLOCKED), "after": ids[-1:]} if ids else {}))
    return ids


def test_followers_of_what_it_ran_are_run_too(cluster: Cluster) -> None:
    """It used to leave a second after the first task had ended, with "nothing is left to do" and the rest undone."""
    cluster.plugin("Quick", "true")
    queue = cluster.queue("Quick")
    for _ in range(2):
        ids = chain(cluster, queue, 4)
        log = cluster.run()
        assert [cluster.task(one).status for one in ids] == [Status.CONCLUDED] * 4
    assert "nothing is left to do here" not in log
    assert log.splitlines()[-1].endswith("ran 4: 4 concluded")


def test_a_task_whose_end_the_store_refuses_does_not_keep_it(cluster: Cluster) -> None:
    """A validator of another program refused the end of one task, and the node never left."""
    cluster.plugin("Quick", "true")
    (refused,) = cluster.push(cluster.queue("Quick", "refused"), {})
    good = cluster.push(cluster.queue("Quick", "good"), {}, {})
    if cluster.url.startswith("sqlite://"):
        with contextlib.closing(sqlite3.connect(cluster.url.removeprefix("sqlite://"))) as connection:
            connection.execute(
                "CREATE TRIGGER strict BEFORE UPDATE ON tasks "
                "WHEN NEW.queue = 'refused' AND NEW.status NOT IN (-2, -1, 0) "
                "BEGIN SELECT RAISE(ABORT, 'no end'); END"
            )
            connection.commit()
    else:
        with driver.MongoClient(cluster.url) as client:
            ended = {"queue": "refused", "status": {"$nin": [-2, -1, 0]}}
            client.get_default_database().command("collMod", "tasks", validator={"$nor": [ended]})
    options = ("--heartbeat", "0.2", "--dead-after", "1")
    log = cluster.run(*options)
    assert f"task {refused}: the store refuses to record its end" in log
    assert log.splitlines()[-1].endswith("ran 3: 2 concluded, 1 not recorded")
    assert [cluster.task(one).status for one in good] == [Status.CONCLUDED] * 2
    assert cluster.store.get_node("n1") is not None  # or nobody would ever look for what it left
    more = cluster.push("good", {})
    other = cluster.run(*options, node_id="n2", pace=QUICK_TO_NOTICE)
    assert f"task {refused}: the store refuses to record its loss" in other
    assert cluster.task(more[0]).status == Status.CONCLUDED


def test_an_end_of_which_nobody_was_told_is_told_before_the_node_leaves(cluster: Cluster) -> None:
    cluster.plugin("Quick", "true")
    queue = cluster.queue("Quick")
    first, second = chain(cluster, queue, 2)
    end(cluster.store, first)  # by a node that was killed at that moment
    assert (cluster.task(first).document["awaited"], cluster.task(second).status) == (True, Status.BLOCKED)
    cluster.run()
    assert cluster.task(second).status == Status.CONCLUDED


def test_what_is_left_is_counted_and_its_cause_named(cluster: Cluster) -> None:
    cluster.plugin("Quick", "true")
    cluster.plugin("Bad", "exit 3")
    queue, bad = cluster.queue("Quick"), cluster.queue("Bad")
    (failing,) = cluster.push(bad, {})
    blocked = {"status": int(Status.BLOCKED)}
    ids = cluster.push(queue, {}, **blocked, after=[failing])
    ids += cluster.push(queue, {}, **blocked, after=ids[:1])
    cluster.push(queue, {}, **blocked, not_before=NEVER)
    cluster.push(cluster.queue("Quick", "resting", paused={"by": "kim"}), {}, {})
    cluster.push(cluster.queue("Nosuch", "classless"), {})
    log = cluster.run()
    assert "waiting tasks that this node does not run: 6" in log
    for line in (
        "queue Quick, 2 wait for a task that has failed",
        "queue Quick, 1 waits for a later time: ",
        "queue resting, 2 waiting: queue resting is paused by kim",
        "queue classless, 1 waiting: no living node has plugin Nosuch",
    ):
        assert line in log, line
    assert log.splitlines()[-1].endswith("ran 1: 1 failed (exit_3 1)")


def test_a_task_that_cannot_be_claimed_does_not_keep_the_node(cluster: Cluster) -> None:
    """It waits, but its document names another node: a node used to wait for it for ever."""
    cluster.plugin("Quick", "true")
    queue = cluster.queue("Quick")
    cluster.push(queue, {}, node="perl01")
    (fine,) = cluster.push(queue, {})
    log = cluster.run()
    assert cluster.task(fine).status == Status.CONCLUDED
    assert "queue Quick, 1 waiting: no node can claim it as it is" in log


def test_what_is_due_soon_is_waited_for_and_counted(cluster: Cluster) -> None:
    cluster.plugin("Again", 'test "$DISBATCH_ATTEMPT" = 2', retry={"max": 1, "delay": 0.3, "jitter": 0})
    queue = cluster.queue("Again")
    cluster.push(queue, {}, status=int(Status.BLOCKED), not_before=cluster.store.now() + timedelta(seconds=1))
    log = cluster.run()
    assert log.splitlines()[-1].endswith("ran 1: 1 concluded; 1 attempt was tried again")


def test_the_last_line_of_a_log_in_json_says_it_too(cluster: Cluster) -> None:
    cluster.plugin("Exit", "exit $(cat | grep -o '\"n\":[0-9]*' | cut -d: -f2)", exit_codes={"9": "permanent"})
    cluster.push(cluster.queue("Exit"), {"n": 0}, {"n": 0}, {"n": 3}, {"n": 3}, {"n": 9})
    last = json.loads(cluster.run("--log-format", "json").splitlines()[-1])
    assert last["message"] == "ran 5: 2 concluded, 3 failed (exit_3 2, exit_9 1)"
    assert last["level"] == "warning"


def test_each_step_of_a_chain_follows_at_once(cluster: Cluster) -> None:
    """Each step used to wait for a second, on an idle node; now it takes some 20 ms, which bench/ measures. What other
    tests do at the same time only adds to it, so the best of several chains counts."""
    cluster.plugin("Quick", "true")
    queue = cluster.queue("Quick")
    node = cluster.start()
    wait_until(lambda: cluster.store.get_node("n1") is not None, 20, "the node did not come")
    medians = []
    for _ in range(4):
        ids = chain(cluster, queue, 12)
        cluster.wait_for_status(ids[-1], Status.CONCLUDED)
        runs = [cluster.task(one).run for one in ids]
        gaps = [(b["started"] - a["ended"]).total_seconds() for a, b in itertools.pairwise(runs)]
        medians.append(statistics.median(gaps))
    node.terminate()
    assert node.wait(20) == 0
    assert min(medians) < 0.3, medians


def test_a_follower_that_comes_while_its_task_runs_follows_soon(cluster: Cluster) -> None:
    gate = cluster.directory / "gate"
    cluster.plugin("Hold", f"while ! test -e {gate}; do sleep 0.1; done")
    queue = cluster.queue("Hold")
    node = cluster.start()
    (first,) = cluster.push(queue, {})
    cluster.wait_for_status(first, Status.RUNNING)
    (second,) = cluster.push(queue, {}, status=int(Status.BLOCKED), after=[first])
    assert cluster.task(first).document["awaited"] is True
    gate.touch()
    cluster.wait_for_status(second, Status.CONCLUDED)
    gap = cluster.task(second).run["started"] - cluster.task(first).run["ended"]
    node.terminate()
    assert node.wait(20) == 0
    assert gap.total_seconds() < 0.5

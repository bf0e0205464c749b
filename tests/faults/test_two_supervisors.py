"""A node finds a supervisor that was started in other surroundings, or is of another version, and has runs: another one
takes what is started from now on, and each goes on with what it has."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from disbatch_host.process import connection, family
from disbatch_protocol.status import Status
from helpers import forked, supervisors
from helpers.nodes import QUICK_TO_NOTICE, QUICK_TO_SEE, Cluster
from helpers.processes import wait_until
from helpers.stores import on_sqlite

pytestmark = [supervisors.usable(), pytest.mark.timeout(180)]

HOLD = """
echo "$DISBATCH_TASK_ID" >>"$DISBATCH_PLUGIN_DIR/starts"
echo begun; ulimit -Hn
while ! [ -e "$DISBATCH_PLUGIN_DIR/go" ]; do sleep 0.1; done
echo done
"""
PACE = {**QUICK_TO_SEE, **QUICK_TO_NOTICE}
QUICK = ("--heartbeat", "0.3", "--dead-after", "1")
FEWER = ("sh", "-c", 'ulimit -n 700; exec "$@"', "sh")  # descriptors, for the node and what it starts
AT_LEAST = 1000  # without that


@pytest.fixture
def keeping(cluster: Cluster) -> Cluster:
    """A cluster whose nodes have homes, with a queue of tasks that run until they are let go."""
    cluster.keep_runs()
    cluster.plugin("Hold", HOLD)
    cluster.queue("Hold", maxthreads=20)
    return cluster


def start(cluster: Cluster, *, node_id: str = "n1", through: tuple[str, ...] = ()) -> forked.Started:
    return cluster.start(*QUICK, node_id=node_id, through=through, pace=PACE)


def running(cluster: Cluster, count: int = 2) -> list[Any]:
    """Tasks that run by now."""
    ids = cluster.push("Hold", *({},) * count)
    for task_id in ids:
        wait_until(lambda one=task_id: cluster.task(one).document["stdout"].count("\n") == 2, 30, "it did not begin")
    return ids


def kill(node: forked.Started) -> None:
    node.kill()
    node.wait(30)


def limit_of(cluster: Cluster, task_id: Any) -> int:
    """How many descriptors its program may have."""
    return int(cluster.task(task_id).document["stdout"].splitlines()[1])


def supervisors_of(cluster: Cluster) -> list[tuple[int, str]]:
    return supervisors.living_below(cluster.directory / "state")


def let_go(cluster: Cluster) -> None:
    (cluster.plugins / "Hold" / "go").touch()


def assert_all_end_well(cluster: Cluster, ids: list[Any]) -> None:
    """Each with what it has said from its beginning on, and started once."""
    let_go(cluster)
    for task_id in ids:
        task = cluster.wait_for_status(task_id, Status.CONCLUDED, within_seconds=60)
        lines = task.document["stdout"].splitlines()
        assert (lines[0], lines[2:]) == ("begun", ["done"])
    started = (cluster.plugins / "Hold" / "starts").read_text().split()
    assert sorted(started) == sorted(map(str, ids))


def with_two(cluster: Cluster) -> tuple[forked.Started, list[Any], list[Any]]:
    """A node with two supervisors, and the tasks of each."""
    first = start(cluster, through=FEWER)
    older = running(cluster)
    kill(first)
    second = start(cluster)
    newer = running(cluster)
    assert {limit_of(cluster, one) for one in older} == {700}
    assert all(limit_of(cluster, one) > AT_LEAST for one in newer)
    assert len(supervisors_of(cluster)) == 2
    return second, older, newer


def test_new_runs_get_another_supervisor_and_the_earlier_one_ends_with_its_last_run(keeping: Cluster) -> None:
    """Also where the node is killed once more, and both are found."""
    cluster = keeping
    node, older, newer = with_two(cluster)
    of = {cluster.task(one).run["supervisor"] for one in newer}
    assert len(of) == 1
    found = cluster.store.get_node("n1")
    assert found is not None
    named = [one["id"] for one in found.document["supervisors"]]
    assert named[0] in of and sorted(named) == sorted(identity for _, identity in supervisors_of(cluster))
    kill(node)
    start(cluster)
    wait_until(lambda: all(cluster.task(one).run.get("adopted") for one in (*older, *newer)), 60, "not all go on")
    assert len(supervisors_of(cluster)) == 2, "the one of now takes what is new"
    last = running(cluster)
    assert {cluster.task(one).run["supervisor"] for one in last} == of
    assert_all_end_well(cluster, [*older, *newer, *last])
    wait_until(lambda: {identity for _, identity in supervisors_of(cluster)} == of, 30, "the earlier one stays")
    wait_until(lambda: "of earlier runs" in cluster.log(), 10)


@on_sqlite
def test_what_ended_at_either_while_no_node_was_there_is_recorded(keeping: Cluster) -> None:
    cluster = keeping
    node, older, newer = with_two(cluster)
    kill(node)
    let_go(cluster)
    start(cluster)
    assert_all_end_well(cluster, [*older, *newer])


@on_sqlite
@pytest.mark.parametrize("which", ["earlier", "later"])
def test_one_that_is_killed_takes_only_its_own_runs_with_it(keeping: Cluster, which: str) -> None:
    cluster = keeping
    node, older, newer = with_two(cluster)
    lost, kept = (older, newer) if which == "earlier" else (newer, older)
    identity = cluster.task(lost[0]).run["supervisor"]
    os.kill(next(pid for pid, one in supervisors_of(cluster) if one == identity), signal.SIGKILL)
    for one in lost:
        assert cluster.wait_for_status(one, Status.ORPHANED, within_seconds=60).document["error"]["code"] == "lost"
    more = running(cluster)
    assert all(limit_of(cluster, one) > AT_LEAST for one in more)
    let_go(cluster)
    for one in (*kept, *more):
        assert cluster.wait_for_status(one, Status.CONCLUDED, within_seconds=60).document["stdout"].endswith("done\n")
    assert node.poll() is None


@on_sqlite
def test_both_are_ended_with_their_runs_when_others_settle_a_dead_node(keeping: Cluster) -> None:
    cluster = keeping
    node, older, newer = with_two(cluster)
    kill(node)
    start(cluster, node_id="n2")
    for one in (*older, *newer):
        assert cluster.wait_for_status(one, Status.ORPHANED, within_seconds=60).document["error"]["code"] == "lost"
    for identity in {cluster.task(one).run["supervisor"] for one in (*older, *newer)}:
        assert not family.Processes().of_supervisor(identity)
    told = cluster.log("n2").count("which nobody goes on with")
    assert told == 2, "once for each"


@on_sqlite
def test_a_lost_connection_to_the_earlier_one_is_made_again(keeping: Cluster) -> None:
    cluster = keeping
    node, older, newer = with_two(cluster)
    earlier = cluster.task(older[0]).run["supervisor"]
    pid = next(pid for pid, one in supervisors_of(cluster) if one == earlier)
    link, _, answering = connection.connect_in(next((cluster.directory / "state").glob("n1-*")))
    link.close()
    assert answering == pid, "the first one stays where it is"
    os.kill(pid, signal.SIGSTOP)
    node.terminate()  # it sees its tasks through, those of both
    os.kill(pid, signal.SIGCONT)
    assert_all_end_well(cluster, [*older, *newer])
    assert node.wait(30) == 0
    wait_until(lambda: not supervisors_of(cluster), 30, "a supervisor without runs stays")

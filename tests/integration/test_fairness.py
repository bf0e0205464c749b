"""Nobody starves: places that queues share, on a node that lives; both stores."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from disbatch_host.documents.changes import Want
from disbatch_host.documents.records import Task
from disbatch_protocol.status import Status
from helpers.nodes import Cluster
from helpers.processes import wait_until

QUEUES = ("q1", "q2", "q3", "q4", "q5", "q6")


def in_order(cluster: Cluster) -> list[Task]:
    """All tasks that were started, in the order of their starts."""
    tasks = [task for task in cluster.tasks() if "started" in task.run]
    return sorted(tasks, key=lambda task: (task.run["started"], str(task.id)))


def started(cluster: Cluster) -> list[str]:
    """The queues of these."""
    return [task.queue for task in in_order(cluster)]


def push_many(cluster: Cluster, queue: str, count: int) -> list[Any]:
    return cluster.push(queue, *({} for _ in range(count)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """So many places, and how many starts of tasks that take so long are looked at."""

    options: tuple[str, ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.05
    starts: int = 120


SHARES = [
    pytest.param(Share(options=("--max-total", "4")), id="places of the node"),
    pytest.param(Share(manifest={"concurrency": 2}), id="places of the class"),
    pytest.param(Share(options=("--max-total", "4"), seconds=0.1, starts=600), id="600 starts", marks=pytest.mark.soak),
]


@pytest.mark.parametrize("share", SHARES)
def test_of_more_busy_queues_than_places_each_gets_its_share(cluster: Cluster, share: Share) -> None:
    """The first four of six queues used to keep all four places until one of them was empty."""
    cluster.plugin("Nap", f"sleep {share.seconds}", **share.manifest)
    for name in QUEUES:
        push_many(cluster, cluster.queue("Nap", name), share.starts // 3)
    node = cluster.start(*share.options, "--stop-grace", "0")
    done = frozenset({int(Status.CONCLUDED)})
    wait_until(lambda: len(cluster.tasks(statuses=done)) >= share.starts, 90, "they do not run")
    node.terminate()
    assert node.wait(20) == 0
    order = in_order(cluster)[: share.starts]
    counts = Counter(task.queue for task in order)
    even = share.starts / len(QUEUES)
    assert all(0.8 * even <= counts[name] <= 1.2 * even for name in QUEUES), counts
    moments = [task.run["started"] for task in order]
    longest = {}
    for name in QUEUES:
        own = [moments[0], *(task.run["started"] for task in order if task.queue == name), moments[-1]]
        longest[name] = max(sum(one < moment < other for moment in moments) for one, other in pairwise(own))
    print(f"starts {dict(counts)}, others' starts between two of its own, at most: {longest}")
    assert max(longest.values()) <= 2 * len(QUEUES)  # two rounds: in each, every queue has its turn


def test_queues_that_may_not_start_anything_now_hold_no_place(cluster: Cluster) -> None:
    """Of six places, five used to stay empty: they were given to queues whose rate was used up."""
    cluster.plugin("Nap", "sleep 0.1")
    for number in range(5):
        push_many(cluster, cluster.queue("Nap", f"a{number}", rate="1/h"), 3)
    push_many(cluster, cluster.queue("Nap", "z"), 40)
    node = cluster.start("--max-total", "6", "--stop-grace", "0")
    done = frozenset({int(Status.CONCLUDED)})
    wait_until(lambda: len(cluster.tasks(queue="z", statuses=done)) == 40, 30, "the free queue starves")
    node.terminate()
    assert node.wait(20) == 0
    found = cluster.tasks(queue="z")
    seconds = max(task.run["ended"] for task in found) - min(task.run["started"] for task in found)
    assert seconds.total_seconds() < 3  # 0.7 s with six places, 4 s with one
    assert Counter(started(cluster)) == {"z": 40, **{f"a{number}": 1 for number in range(5)}}


def test_one_place_goes_on_where_very_many_queues_may_not_use_it(cluster: Cluster) -> None:
    cluster.plugin("Quick", "true")
    for number in range(30):
        cluster.queue("Quick", f"a{number:02}", rate="1/h")
        push_many(cluster, f"a{number:02}", 2)
    push_many(cluster, cluster.queue("Quick", "z"), 20)
    node = cluster.start("--max-total", "1", "--stop-grace", "0")
    done = frozenset({int(Status.CONCLUDED)})
    wait_until(lambda: len(cluster.tasks(statuses=done)) == 50, 30, "the free queue starves")
    node.terminate()
    assert node.wait(20) == 0
    assert Counter(started(cluster)) == {"z": 20, **{f"a{number:02}": 1 for number in range(30)}}


def name_a_node(cluster: Cluster) -> None:
    cluster.push("a", {}, node="somebody")


def damage_a_row(cluster: Cluster) -> None:
    (task_id,) = cluster.push("a", {})
    with contextlib.closing(sqlite3.connect(cluster.url.removeprefix("sqlite://"), isolation_level=None)) as file:
        file.execute("UPDATE tasks SET parameters = '{bad' WHERE id = ?", (task_id,))


UNCLAIMABLE = [
    ("sqlite", name_a_node),
    ("sqlite", damage_a_row),
    pytest.param("mongodb", name_a_node, marks=pytest.mark.mongodb),
]


@pytest.mark.parametrize(("store_url", "push_it"), UNCLAIMABLE, indirect=["store_url"])
def test_a_task_that_cannot_be_claimed_holds_no_place(cluster: Cluster, push_it: Callable[[Cluster], None]) -> None:
    """The only place of the node stayed with its queue, and nothing ran any more."""
    cluster.plugin("Quick", "true")
    for name in ("a", "b", "c"):
        cluster.queue("Quick", name)
    push_it(cluster)  # the first of its queue
    ids = [one for name in ("a", "b", "c") for one in push_many(cluster, name, 5)]
    node = cluster.start("--max-total", "1", "--stop-grace", "0")
    wait_until(lambda: all(cluster.task(one).status == Status.CONCLUDED for one in ids), 20, "the others starve")
    node.terminate()
    assert node.wait(20) == 0


def test_a_queue_whose_maxtotal_another_node_uses_up_holds_no_place(cluster: Cluster) -> None:
    cluster.plugin("Quick", "true")
    cluster.queue("Quick", "a", maxtotal=2)
    push_many(cluster, "a", 5)
    assert len(cluster.store.claim("n2", [Want("a", 2, maxtotal=2)], "t")) == 2
    ids = push_many(cluster, cluster.queue("Quick", "b"), 10)
    node = cluster.start("--max-total", "1", "--stop-grace", "0")
    wait_until(lambda: all(cluster.task(one).status == Status.CONCLUDED for one in ids), 20, "b starves")
    node.terminate()
    assert node.wait(20) == 0
    assert Counter(started(cluster)) == {"b": 10}


def test_a_rate_is_used_although_its_queue_shares_the_places(cluster: Cluster) -> None:
    """A queue that rests until its rate allows another start is back in time."""
    cluster.plugin("Nap", "sleep 0.02")
    push_many(cluster, cluster.queue("Nap", "a", rate="10/s"), 40)
    push_many(cluster, cluster.queue("Nap", "b"), 280)
    node = cluster.start("--max-total", "2", "--stop-grace", "0")
    done = frozenset({int(Status.CONCLUDED)})
    wait_until(lambda: len(cluster.tasks(queue="a", statuses=done)) >= 20, 30, "it does not run")
    node.terminate()
    assert node.wait(20) == 0
    starts = sorted(task.run["started"] for task in cluster.tasks(queue="a") if "started" in task.run)[:20]
    assert (starts[-1] - starts[0]).total_seconds() < 19 / 10 * 1.5

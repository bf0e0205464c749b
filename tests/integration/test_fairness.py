"""Nobody starves: places that queues share, on a node that lives; both stores."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from disbatch_host.documents.changes import Want
from disbatch_protocol.status import Status
from helpers.nodes import Cluster
from helpers.processes import wait_until

QUEUES = ("q1", "q2", "q3", "q4", "q5", "q6")


def started(cluster: Cluster) -> list[str]:
    """The queues of all tasks that were started, in the order of their starts."""
    tasks = [task for task in cluster.tasks() if "started" in task.run]
    return [task.queue for task in sorted(tasks, key=lambda task: (task.run["started"], str(task.id)))]


def push_many(cluster: Cluster, queue: str, count: int) -> list[Any]:
    return cluster.push(queue, *({} for _ in range(count)))


@pytest.mark.parametrize(
    ("options", "manifest", "places"), [(("--max-total", "4"), {}, 4), ((), {"concurrency": 2}, 2)]
)
def test_of_more_busy_queues_than_places_each_gets_its_share(
    cluster: Cluster, options: tuple[str, ...], manifest: dict[str, Any], places: int
) -> None:
    """The first four of six queues used to keep all four places until one of them was empty."""
    cluster.plugin("Nap", "sleep 0.05", **manifest)
    for name in QUEUES:
        push_many(cluster, cluster.queue("Nap", name), 40)
    node = cluster.start(*options, "--stop-grace", "0")
    done = frozenset({int(Status.CONCLUDED)})
    wait_until(lambda: len(cluster.tasks(statuses=done)) >= 120, 60, "they do not run")
    node.terminate()
    assert node.wait(20) == 0
    order = started(cluster)[:120]
    assert all(16 <= count <= 24 for count in Counter(order).values()) and len(Counter(order)) == 6, Counter(order)
    last = dict.fromkeys(QUEUES, 0)
    for number, name in enumerate(order, start=1):
        assert number - last[name] <= 2 * len(QUEUES) + places, (number, name)
        last[name] = number


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

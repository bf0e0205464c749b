"""Documents of every shape at a living node, beside good work: one bad document costs only itself.

The seed is printed; `DISBATCH_SEED` repeats it. `DISBATCH_RANDOM_SECONDS` says for how long; the long form is for
`make soak`.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import opened
from disbatch_host.documents.changes import TaskFilter
from disbatch_protocol.status import Status
from helpers.nodes import Cluster
from helpers.odd_documents import MongoThrower, SqliteThrower, Thrower
from helpers.processes import wait_until

SHORT_SECONDS, LONG_SECONDS = 4.0, 3600.0
THROWN, GOOD = 40, 8  # in each round
DONE_SECONDS_MAX = 20.0  # for good work, whatever lies beside it
HEARTBEAT_SECONDS_MAX = 3.0
KEPT_ROUNDS = 8  # until what was thrown is removed
STRICT = {
    "type": "object",
    "properties": {"n": {"multipleOf": 0.5}, "s": {"type": "string", "pattern": "^[a-z]*$"}},
    "patternProperties": {"_secret$": {"writeOnly": True}},
}
WORKER = r"""#!/usr/bin/env python3
import os, sys
sys.stdin.buffer.readline()
os.write(3, b'{"type":"ready","protocol":1}\n')
for line in sys.stdin.buffer:
    os.write(3, b'{"type":"done","exit":0}\n')
"""


@contextlib.contextmanager
def heartbeats_of(cluster: Cluster, node_id: str) -> Iterator[list[float]]:
    """The greatest age of its heartbeat, sampled ten times a second by the store's clock."""
    oldest, is_over = [0.0], threading.Event()

    def sample() -> None:
        with opened(cluster.url) as store:
            while not is_over.wait(0.1):
                found = store.get_node(node_id)
                if found is not None and found.age_seconds is not None:
                    oldest[0] = max(oldest[0], found.age_seconds)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield oldest
    finally:
        is_over.set()
        thread.join()


def thrower_at(cluster: Cluster, chance: random.Random, queues: list[str]) -> Thrower:
    if cluster.url.startswith("sqlite://"):
        return SqliteThrower(Path(cluster.url.removeprefix("sqlite://")), chance, queues)
    return MongoThrower(cluster.url, chance, queues)


@pytest.mark.parametrize(
    "seconds", [SHORT_SECONDS, pytest.param(LONG_SECONDS, marks=[pytest.mark.soak, pytest.mark.timeout(9000)])]
)
def test_good_work_is_done_beside_documents_of_every_shape(cluster: Cluster, seconds: float) -> None:
    seed = int(os.environ.get("DISBATCH_SEED") or random.SystemRandom().randrange(2**32))
    seconds = float(os.environ.get("DISBATCH_RANDOM_SECONDS") or seconds)
    print(f"DISBATCH_SEED={seed}, for {seconds:g} s")
    cluster.plugin("Good", "read -r line; echo done")
    cluster.plugin("Strict", "read -r line; echo done", parameters=STRICT, cwd="work")
    cluster.plugin("Worker", WORKER, mode="worker")
    queues = [cluster.queue(name, maxthreads=4) for name in ("Good", "Strict", "Worker")]
    node = cluster.start("--heartbeat", "0.3")
    wait_until(lambda: cluster.store.get_node("n1"), 30, "node n1 never came")
    thrower = thrower_at(cluster, random.Random(seed), queues)
    rounds = 0
    with contextlib.closing(thrower), heartbeats_of(cluster, "n1") as oldest:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            rounds += 1
            good: list[object] = []
            for number in range(THROWN):
                thrower.throw()
                if number % (THROWN // GOOD) == 0:
                    good += cluster.push(queues[number % len(queues)], {"n": 1})
            wait_until(
                lambda good=good: set_of_statuses(cluster, good) == {Status.CONCLUDED},
                DONE_SECONDS_MAX,
                f"good work is not done in round {rounds}; DISBATCH_SEED={seed}; {statuses_of(cluster, good)}",
            )
            assert node.poll() is None, f"the node has ended with {node.returncode}; DISBATCH_SEED={seed}"
            if rounds % KEPT_ROUNDS == 0:
                thrower.forget()
    log = cluster.log()
    assert "Traceback" not in log and "this is a bug" not in log and "this is a defect" not in log
    assert oldest[0] < HEARTBEAT_SECONDS_MAX, f"a heartbeat was {oldest[0]:.1f} s old; DISBATCH_SEED={seed}"
    node.terminate()
    assert node.wait(60) == 0
    print(f"{rounds} rounds, the oldest heartbeat was {oldest[0]:.1f} s old")


def statuses_of(cluster: Cluster, ids: list[object]) -> list[int]:
    return [task.status for task in cluster.store.find_tasks(TaskFilter(ids=ids), with_output=False)]


def set_of_statuses(cluster: Cluster, ids: list[object]) -> set[int]:
    found = statuses_of(cluster, ids)
    return set(found) if len(found) == len(ids) else set()

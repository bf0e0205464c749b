"""How long a single task takes that comes to an idle node: from just before the insert until its end can be read.

Tasks come one by one, 50 to 150 ms apart at random, through the library's store, so that no process has to start. Two
ends are taken: `run.ended` as the node has written it, and the moment at which a reader that looks every millisecond
finds the finished document, which is durable then. The targets are held against the reader.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import contenders
import own
from contenders import percentile
from disbatch_host.documents import records
from figures import Table, Target
from place import Place

TARGETS = {"SQLite": {50: 10.0, 99: 60.0}, "MongoDB": {50: 15.0, 99: 100.0}}  # milliseconds
GAP_SECONDS = (0.05, 0.15)
_LOOK_SECONDS = 0.001
_WORKERS = 4  # of gearman


def run(place: Place, table: Table, rounds: int) -> None:
    count = 40 if place.quick else 300
    missing = contenders.gearman_is_missing()
    if missing is not None:
        table.notice(missing)
    for _ in range(rounds):
        peer = _of_gearman(place, count) if missing is None else None
        if peer is not None:
            for part in (50, 99):
                table.add("latency", f"gearman, 4 workers idle, p{part}", percentile(peer, part), "ms")
        for kind in place.kinds:
            seen, ended = _of_node(place, kind, count)
            for part in (50, 99):
                beside = None if peer is None else (f"gearman p{part}", percentile(peer, part))
                target = Target("value", "<=", TARGETS[kind][part])
                what = f"{kind}, push to end seen by a reader, p{part}"
                table.add("latency", what, percentile(seen, part), "ms", beside=beside, targets=[target])
            for part in (50, 99):
                table.add("latency", f"{kind}, push to run.ended, p{part}", percentile(ended, part), "ms")


def _of_node(place: Place, kind: str, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each task until the reader saw its end, and until the node's own mark of it."""
    seen, ended = [], []
    with place.fresh_store(kind) as url, own.opened(url) as store:
        queue = store.insert_queue({"_id": "line", "class": "line", "maxthreads": contenders.AT_ONCE})
        with own.Node(place, url) as node:
            node.wait_until_there(store)
            for _ in range(count):
                time.sleep(random.uniform(*GAP_SECONDS))
                pushed, began = time.time(), time.perf_counter()
                (task_id,) = store.insert_tasks([records.new_task(queue, {"n": 1}, now=store.now())])
                task = own.wait_for_end(store, task_id, within_seconds=30, every_seconds=_LOOK_SECONDS)
                seen.append(1000 * (time.perf_counter() - began))
                ended.append(1000 * (task.run["ended"].timestamp() - pushed))
    return seen, ended


def _of_gearman(place: Place, count: int) -> list[float]:
    with contenders.gearmand(place) as port, contenders.gearman_workers(place, port, _WORKERS):
        client = contenders.GearmanClient(port)
        try:
            client.run(b'{"n":0}\n')  # now the workers are there
            return [_milliseconds_of(lambda: client.run(b'{"n":1}\n')) for _ in range(count)]
        finally:
            client.close()


def _milliseconds_of(action: Callable[[], None]) -> float:
    time.sleep(random.uniform(*GAP_SECONDS))
    began = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - began)

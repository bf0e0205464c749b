"""How the cost of a task grows with the number of tasks that wait and that have finished.

A small store with a thousand waiting tasks is measured beside a store that is filled further from step to step. Each
step measures three things on both, in turn: oneshot and worker mode through a node, and claim and conclusion straight
through the store. What grows shows as a ratio above 1. The curve goes to `growth.svg` (with --quick, elsewhere).

Rules:
1. Tasks are first in, first out: those that were pushed first are known by id, run first, and are what is measured.
2. Around the measured tasks there are always as many waiting as the step says, in the same queue, and a fifth as many
   finished ones.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import own
import plot
from contenders import AT_ONCE
from disbatch_host.documents import records, transitions
from disbatch_host.documents.changes import RunChange, RunKey, Want
from disbatch_host.documents.records import Document, Task
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status
from figures import Table, Target
from place import Place

TARGET = Target("ratio", "<=", 1.2)  # cost in the largest step, of that with SMALL waiting
SMALL = 1000
STEPS = (1000, 10_000, 100_000, 1_000_000, 5_000_000)
QUICK_STEPS = (1000, 10_000, 50_000)
FINISHED_PART = 5  # one finished task to so many waiting ones
SVG = Path(__file__).parent / "growth.svg"
QUICK_SVG = Path(tempfile.gettempdir()) / "disbatch-growth-quick.svg"  # says little, so it must not replace the other

_KNOWN_MAX = 200_000  # ids kept in memory: many more than all steps together use up
_SETTLE_SECONDS = 5.0  # after filling: the store writes its caches to the disk
_SPARE = 2000  # tasks that a node may have done beyond the measured ones before it stops
_MEASURES = ("oneshot", "worker", "store")
_WORDS = {"oneshot": "oneshot", "worker": "worker mode", "store": "claim and conclude"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many tasks one measurement takes."""

    oneshot: int
    worker: int
    store: int

    def of(self, measure: str) -> int:
        return int(getattr(self, measure))

    @property
    def total(self) -> int:
        return sum(self.of(measure) + _SPARE for measure in _MEASURES)


def run(place: Place, table: Table, rounds: int) -> None:
    steps = QUICK_STEPS if place.quick else STEPS
    sizes = Sizes(200, 1000, 400) if place.quick else Sizes(1500, 6000, 2000)
    curves: dict[str, list[tuple[float, float]]] = {}
    for kind in place.kinds:
        with _pond(place, kind) as large:
            for step in steps:
                print(f"  {kind}: filling up to {step:,} waiting tasks", flush=True)
                large.fill(waiting=step, finished=step // FINISHED_PART, reserve=rounds * sizes.total)
                time.sleep(1 if place.quick else _SETTLE_SECONDS)
                for _ in range(rounds):
                    _measure_beside_small(place, kind, large, table, sizes, step=step, is_last=step == steps[-1])
                for measure in _MEASURES:
                    ratios = table.rows["growth", _what(kind, measure, step)].ratios
                    curve = curves.setdefault(f"{kind}, {_WORDS[measure]}", [])
                    curve.append((step, sorted(ratios)[len(ratios) // 2]))
    svg = QUICK_SVG if place.quick else SVG
    plot.write_svg(
        svg,
        title=f"Cost of a task, of that with {SMALL:,} waiting",
        x_label="waiting tasks (and a fifth as many finished ones)",
        y_label="times as much",
        curves=curves,
        limit=TARGET.limit,
    )
    table.notice(f"the curve of growth is in {svg if place.quick else 'bench/growth.svg'}")


def _measure_beside_small(
    place: Place, kind: str, large: Pond, table: Table, sizes: Sizes, *, step: int, is_last: bool
) -> None:
    with _pond(place, kind) as small:
        small.fill(waiting=SMALL, finished=SMALL // FINISHED_PART, reserve=sizes.total)
        for measure in _MEASURES:
            count = sizes.of(measure)
            beside = (f"{SMALL:,} waiting", 1e6 / small.rate(measure, count))
            cost = 1e6 / large.rate(measure, count)
            targets = [TARGET] if is_last else []
            table.add("growth", _what(kind, measure, step), cost, "µs a task", beside=beside, targets=targets)


def _what(kind: str, measure: str, step: int) -> str:
    return f"{kind}, {_WORDS[measure]}, {step:,} waiting"


@contextlib.contextmanager
def _pond(place: Place, kind: str) -> Iterator[Pond]:
    with place.fresh_store(kind) as url, own.opened(url) as store:
        yield Pond(place, url, store)


class Pond:
    """A store with one queue, and what is known of the tasks in it."""

    def __init__(self, place: Place, url: str, store: Store) -> None:
        self._place = place
        self._url = url
        self._store = store
        self._queue = store.insert_queue({"_id": "pond", "class": "line", "maxthreads": AT_ONCE})
        self._first: deque[Any] = deque()  # the ids of the waiting tasks, oldest first, as far as they are kept
        self._waiting = 0
        self._finished = 0
        self._number = itertools.count()

    def fill(self, *, waiting: int, finished: int, reserve: int) -> None:
        """Up to so many of both. `reserve`: further waiting ones, which measurements use up."""
        missing = finished - self._finished
        if missing > 0:
            self._insert(missing, self._finished_one)
            self._finished += missing
        for numbers in own.batches(max(0, waiting + reserve - self._waiting)):
            ids = self._insert(len(numbers), self._waiting_one)
            if len(self._first) == self._waiting and self._waiting < _KNOWN_MAX:  # no gap before them
                self._first.extend(ids)
            self._waiting += len(ids)

    def _insert(self, count: int, make: Any) -> list[Any]:
        return own.push(self._store, self._queue, count, make)

    def _waiting_one(self, _: int, now: datetime) -> Document:
        return records.new_task(self._queue, {"n": next(self._number)}, now=now)

    def _finished_one(self, number: int, now: datetime) -> Document:
        """As a node has left it."""
        token = f"{number:032x}"
        run = {
            "attempt": 1, "node": "earlier", "host": "machine", "token": token, "started": now, "ended": now,
            "seconds": 0.002, "reason": "exited", "outcome": "success", "exit_code": 0, "pid": 1000,
        }  # fmt: skip
        more = {"stdout": f'done {{"n":{number}}}\n', "status": int(Status.CONCLUDED), "node": "earlier"}
        document = records.new_task(self._queue, {"n": number}, now=now)
        return {**document, **more, "claim": {"token": token, "at": now}, "run": run}

    def rate(self, measure: str, count: int) -> float:
        """Tasks a second of the oldest `count` waiting tasks."""
        ids = list(itertools.islice(self._first, count))
        assert len(ids) == count, "the reserve of waiting tasks was too small"
        found = self._rate_of_store(count) if measure == "store" else self._rate_of_node(measure, ids)
        self._forget_what_has_run()
        return found

    def _rate_of_node(self, measure: str, ids: Sequence[Any]) -> float:
        class_name = "line" if measure == "oneshot" else "worker"
        self._store.update_queue(self._queue, {"class": class_name})
        with own.Node(self._place, self._url) as node:
            node.wait_until_there(self._store)
            own.wait_for_end(self._store, ids[-1], within_seconds=60 + len(ids) / 5)
        return own.rate_of(own.read(self._store, ids))

    def _rate_of_store(self, count: int) -> float:
        """As many at a time as a node with 8 places: claimed and Running in one go, then concluded."""
        began = time.perf_counter()
        for _ in range(count // AT_ONCE):
            token = uuid.uuid4().hex
            tasks = self._store.claim("direct", [Want(self._queue, AT_ONCE)], token, self._begin)
            assert len(tasks) == AT_ONCE, f"expected {AT_ONCE} claimed tasks, got {len(tasks)}"
            refused = self._store.commit([self._conclusion(task) for task in tasks])
            assert not refused, refused
        return count / (time.perf_counter() - began)

    def _begin(self, task: Task) -> RunChange:
        now = self._store.now()
        run = {"attempt": 1, "node": "direct", "token": task.token, "started": now}
        return transitions.start_change(task, RunKey(task.id, "direct", task.token), run, now=now)

    def _conclusion(self, task: Task) -> RunChange:
        now = self._store.now()
        run = {"attempt": 1, "node": "direct", "token": task.token, "started": now, "ended": now, "exit_code": 0}
        fields = {"status": int(Status.CONCLUDED), "mtime": now, "run": run, "stdout": "done\n", "stderr": ""}
        return RunChange(key=RunKey(task.id, "direct", task.token), statuses=(Status.RUNNING,), set=fields)

    def _forget_what_has_run(self) -> None:
        """Also what the node has done beyond the measured tasks before it stopped."""
        while True:
            page = list(itertools.islice(self._first, 1000))
            done = sum(statuses.is_finished(task.status) for task in own.read(self._store, page))
            for _ in range(done):
                self._first.popleft()
            self._waiting -= done
            self._finished += done
            if done < len(page) or not page:
                return

"""Tasks a second: oneshot against `xargs -P8` and `-P16`, worker mode against gearman's exec worker, and peers beside
them."""

from __future__ import annotations

from collections.abc import Callable

import contenders
import own
from contenders import AT_ONCE
from figures import Table, Target
from place import Place

# By how many run at once: of `xargs -P` with as many, and in worker mode of gearman's exec worker.
ONESHOT_TARGETS = {"SQLite": {8: 0.75, 16: 0.82}, "MongoDB": {8: 0.45, 16: 0.50}}
FALL_BACK_TARGET = 0.60  # of a node without a supervisor, SQLite, 8 at once
WORKER_TARGETS = {"SQLite": {8: 3.5, 16: 5.0}, "MongoDB": {8: 0.9, 32: 1.4}}

Peers = dict[str, tuple[Callable[[Place, int], float], bool]]


def run(place: Place, table: Table, rounds: int) -> None:
    few, some, many = (100, 200, 1000) if place.quick else (600, 3000, 20_000)
    peers = _peers(place, table)
    why = own.why_no_supervisor()
    if why is not None:
        table.notice(f"all rates are those of a node without a supervisor: {why}")
    for _ in range(rounds):
        limit = _limits(place, table, some)
        for kind in place.kinds:
            for at_once, ratio in ONESHOT_TARGETS[kind].items():
                _oneshot(place, table, f"oneshot, {at_once} at once, {kind}", kind, at_once, some, ratio)
        if why is None:
            what = f"oneshot, {AT_ONCE} at once, SQLite, without a supervisor"
            _oneshot(place, table, what, "SQLite", AT_ONCE, some, FALL_BACK_TARGET, has_supervisor=False)
        gearman = []
        for name, (measure, is_slow) in peers.items():
            found = measure(place, few if is_slow else some)
            table.add("rates", name, found, "tasks/s", beside=("xargs -P8", limit))
            gearman += [found] if name.startswith("gearman") else []
        best = ("gearman, its better one", max(gearman)) if gearman else None
        for kind in place.kinds:
            for processes, ratio in WORKER_TARGETS[kind].items():
                found = own.rate(place, kind, "worker", at_once=processes, tasks=many)
                what = f"disbatch-host, worker mode, {processes} processes, {kind}"
                table.add("rates", what, found, "tasks/s", beside=best, targets=[Target("ratio", ">=", ratio)])


def _limits(place: Place, table: Table, tasks: int) -> float:
    """What the machine gives; that of `xargs -P8`."""
    limit = contenders.xargs(place, tasks)
    table.add("rates", "xargs -P8 (the limit)", limit, "tasks/s")
    table.add("rates", "xargs -P16 (the limit)", contenders.xargs(place, tasks, 16), "tasks/s")
    loop = contenders.capture_loop(place, tasks)
    table.add("rates", "bare capture loop, 8 threads", loop, "tasks/s", beside=("xargs -P8", limit))
    return limit


def _oneshot(
    place: Place,
    table: Table,
    what: str,
    kind: str,
    at_once: int,
    tasks: int,
    ratio: float,
    *,
    has_supervisor: bool = True,
) -> None:
    """With its own xargs just before it: that is the ratio which has a target."""
    beside = (f"xargs -P{at_once}", contenders.xargs(place, tasks, at_once))
    found = own.rate(place, kind, "line", at_once=at_once, tasks=tasks, has_supervisor=has_supervisor)
    target = Target("ratio", ">=", ratio)
    table.add("rates", f"disbatch-host, {what}", found, "tasks/s", beside=beside, targets=[target])


def _peers(place: Place, table: Table) -> Peers:
    """Those that are here, and whether they are so slow that fewer tasks do."""
    everybody: list[tuple[str, Callable[[Place, int], float], bool, str | None]] = [
        ("gearman -w, 4 workers", contenders.gearman(4), False, contenders.gearman_is_missing()),
        ("gearman -w, 8 workers", contenders.gearman(8), False, contenders.gearman_is_missing()),
        ("Huey, SQLite, 4 processes", contenders.huey_sqlite, False, contenders.huey_is_missing()),
        ("Celery, MongoDB, prefork 4", contenders.celery_mongodb, True, contenders.celery_is_missing(place)),
    ]
    for _, _, _, reason in everybody:
        if reason is not None:
            table.notice(reason)
    return {name: (measure, is_slow) for name, measure, is_slow, reason in everybody if reason is None}

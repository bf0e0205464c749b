"""Tasks a second: oneshot against `xargs -P8`, worker mode against gearman's exec worker, and peers beside them."""

from __future__ import annotations

from collections.abc import Callable

import contenders
import own
from contenders import AT_ONCE
from figures import Table, Target
from place import Place

ONESHOT_TARGETS = {"SQLite": 0.80, "MongoDB": 0.55}  # of xargs -P8
WORKER_TARGETS = {"SQLite": 3.0, "MongoDB": 2.0}  # of gearman's exec worker
WORKER_PROCESSES = (4, 8)


def run(place: Place, table: Table, rounds: int) -> None:
    few, some, many = (100, 200, 1000) if place.quick else (600, 3000, 20_000)
    peers = _peers(place, table)
    for _ in range(rounds):
        limit = contenders.xargs(place, some)
        table.add("rates", "xargs -P8 (the limit)", limit, "tasks/s")
        beside = ("xargs -P8", limit)
        loop = contenders.capture_loop(place, some)
        table.add("rates", "bare capture loop, 8 threads", loop, "tasks/s", beside=beside)
        for kind in place.kinds:
            # With its own xargs just before it: that is the ratio which has a target.
            beside = ("xargs -P8", contenders.xargs(place, some))
            found = own.rate(place, kind, "line", at_once=AT_ONCE, tasks=some)
            target = Target("ratio", ">=", ONESHOT_TARGETS[kind])
            table.add("rates", f"disbatch-host, oneshot, {kind}", found, "tasks/s", beside=beside, targets=[target])
        gearman = []
        for name, (measure, is_slow) in peers.items():
            found = measure(place, few if is_slow else some)
            table.add("rates", name, found, "tasks/s", beside=beside)
            gearman += [found] if name.startswith("gearman") else []
        for kind in place.kinds:
            for processes in WORKER_PROCESSES:
                found = own.rate(place, kind, "worker", at_once=processes, tasks=many)
                best = ("gearman, its better one", max(gearman)) if gearman else None
                target = Target("ratio", ">=", WORKER_TARGETS[kind])
                what = f"disbatch-host, worker mode, {processes} processes, {kind}"
                table.add("rates", what, found, "tasks/s", beside=best, targets=[target])


def _peers(place: Place, table: Table) -> dict[str, tuple[Callable[[Place, int], float], bool]]:
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

"""One task that prints at full speed: into the store up to `max_output`, and past it at the speed of a pipe.

Beside it the same program in `sh -c 'program | cat > /dev/null'`.
"""

from __future__ import annotations

import subprocess
import time

import own
from disbatch_protocol.status import Status
from figures import Table, Target
from place import Place

INTO_STORE_TARGETS = {"SQLite": 100.0, "MongoDB": 60.0}  # 10⁶ bytes a second
PIPE_TARGET = Target("ratio", ">=", 0.8)  # "at pipe speed"; a pipe through `cat` swings by more than a tenth
_KEPT_PAST = "1M"
_SLOWEST = 2e6  # bytes a second; slower is stuck


def run(place: Place, table: Table, rounds: int) -> None:
    kept = (64 if place.quick else 512) * 2**20
    passed = (512 if place.quick else 4096) * 2**20
    place.plugin("kept", _program(kept), max_output=kept)
    place.plugin("passed", _program(passed), max_output=_KEPT_PAST)
    for _ in range(rounds):
        for kind in place.kinds:
            beside = ("program | cat", _pipe(kept))
            target = Target("value", ">=", INTO_STORE_TARGETS[kind])
            what = f"{kind}, {kept // 2**20} MiB into the store"
            table.add("output", what, _print(place, kind, "kept", kept), "MB/s", beside=beside, targets=[target])
            beside = ("program | cat", _pipe(passed))
            what = f"{kind}, {passed // 2**20} MiB past max_output"
            found = _print(place, kind, "passed", passed)
            table.add("output", what, found, "MB/s", beside=beside, targets=[PIPE_TARGET])


def _program(size: int) -> str:
    return f"head -c {size} /dev/zero | tr '\\0' x"


def _pipe(size: int) -> float:
    began = time.perf_counter()
    subprocess.run(["sh", "-c", f"{_program(size)} | cat > /dev/null"], check=True)
    return size / (time.perf_counter() - began) / 1e6


def _print(place: Place, kind: str, class_name: str, size: int) -> float:
    """From the start of the task to its durable end, as a reader sees it."""
    with place.fresh_store(kind) as url, own.opened(url) as store:
        queue = store.insert_queue({"_id": class_name, "class": class_name})
        with own.Node(place, url) as node:
            node.wait_until_there(store)
            (task_id,) = own.push(store, queue, 1)
            began = time.time()
            task = own.wait_for_end(store, task_id, within_seconds=60 + size / _SLOWEST, every_seconds=0.02)
            seconds = time.time() - began
        assert task.status == Status.CONCLUDED, task.run
        assert task.run["output"]["stdout"]["bytes"] == size, task.run["output"]
        return size / seconds / 1e6

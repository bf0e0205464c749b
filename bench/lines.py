"""A thousand runs that print a line a second: what of a core the node takes to follow them, its supervisor, and mongod;
and the most memory that the supervisor has in hand.

Beside it a bare loop that reads as many such programs from their pipes and keeps nothing.
"""

from __future__ import annotations

import resource
import selectors
import shutil
import subprocess
import time
from typing import Any

import own
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from figures import Table, Target
from helpers.processes import wait_until
from memory import SUPERVISOR_TARGET
from place import Place, cpu_seconds, peak_memory_megabytes

TARGET = Target("value", "<=", 25.0)  # percent of a core, of the node
# Perl, since a thousand shells would start a thousand times `sleep` a second.
_PROGRAM = """#!/usr/bin/perl
$| = 1;
for (my $n = 0; ; $n++) { print "line $n\\n"; select undef, undef, undef, 1 }
"""
_SETTLE_SECONDS = 3.0
_LATE_SECONDS = 10.0  # what is in the store later than that after it was printed is not followed


def run(place: Place, table: Table, rounds: int) -> None:
    if shutil.which("perl") is None:
        table.notice("a line a second is left out: there is no Perl")
        return
    tasks, seconds = (100, 5.0) if place.quick else (1000, 20.0)
    place.plugin("teller", _PROGRAM, kill_grace=1)
    for _ in range(rounds):
        bare = ("bare loop of reads", _bare(place, tasks, seconds))
        table.add("lines", f"bare loop of reads, {tasks:,} programs", bare[1], "% of a core")
        for kind in place.kinds:
            found, memory = _followed(place, kind, tasks, seconds)
            for who, percent in found.items():
                targets = [TARGET] if who == "node" else []
                what = f"{kind}, {tasks:,} runs that print a line a second: {who}"
                table.add("lines", what, percent, "% of a core", beside=bare, targets=targets)
            if memory is not None:
                what = f"{kind}, {tasks:,} runs that print a line a second: memory of the supervisor"
                table.add("lines", what, memory, "MB", targets=[SUPERVISOR_TARGET])


def _followed(place: Place, kind: str, tasks: int, seconds: float) -> tuple[dict[str, float], float | None]:
    """Percent of a core of each process, and the memory of the supervisor."""
    with place.fresh_store(kind) as url, own.opened(url) as store:
        queue = store.insert_queue({"_id": "teller", "class": "teller", "maxthreads": tasks})
        ids = own.push(store, queue, tasks)
        running = TaskFilter(queue=queue, statuses=frozenset({int(Status.RUNNING)}))
        with own.Node(place, url, "--stop-grace", "0") as node:
            node.wait_until_there(store)
            wait_until(lambda: store.count_tasks(running) == tasks, 60 + tasks / 10, f"{tasks} tasks do not run")
            time.sleep(_SETTLE_SECONDS)
            supervisor = node.supervisor_pid
            pids = {"node": node.pid}
            pids |= {} if supervisor is None else {"supervisor": supervisor}
            pids |= {"mongod": place.mongod.pid} if kind == "MongoDB" and place.mongod is not None else {}
            began, before = time.monotonic(), {who: cpu_seconds(pid) for who, pid in pids.items()}
            time.sleep(seconds)
            passed, after = time.monotonic() - began, {who: cpu_seconds(pid) for who, pid in pids.items()}
            least = max(1, int(_SETTLE_SECONDS + seconds - _LATE_SECONDS))
            for task_id in (ids[0], ids[-1]):
                assert _lines(store, task_id) >= least, f"expected {least} lines of {task_id}: it is not followed"
            memory = supervisor and peak_memory_megabytes(supervisor)
    return {who: 100 * (after[who] - before[who]) / passed for who in pids}, memory


def _lines(store: Store, task_id: Any) -> int:
    task = store.get_task(task_id)
    assert task is not None
    return str(task.document["stdout"]).count("\n")


def _bare(place: Place, programs: int, seconds: float) -> float:
    """Percent of a core of one thread that waits for their lines and reads them."""
    path = place.plugins / "teller" / "run.sh"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    started: list[subprocess.Popen[bytes]] = []
    try:
        with selectors.DefaultSelector() as selector:
            for _ in range(programs):
                started.append(subprocess.Popen([path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0))
                pipe = started[-1].stdout
                assert pipe is not None
                selector.register(pipe, selectors.EVENT_READ, pipe.read)
            _read_for(selector, _SETTLE_SECONDS)
            began, before = time.monotonic(), time.thread_time()
            _read_for(selector, seconds)
            return 100 * (time.thread_time() - before) / (time.monotonic() - began)
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.communicate()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _read_for(selector: selectors.BaseSelector, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            key.data(65536)

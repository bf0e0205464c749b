"""This project as its users run it: tasks pushed into a store, nodes as processes, times as the documents have them.

Must not know: what the figures are compared with.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from disbatch_host.clock import SystemClock
from disbatch_host.documents import records
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, Task
from disbatch_host.process import connection
from disbatch_host.store.contract import Store
from disbatch_host.store.open import open_store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status
from node_process import NodeProcess
from place import Place

COMMAND = [sys.executable, "-m", "disbatch_host"]
BATCH = 10_000  # documents handed to a store in one go


@contextlib.contextmanager
def opened(url: str) -> Iterator[Store]:
    """A store object of our own, beside the node's."""
    store = open_store(url, SystemClock())
    store.open()
    try:
        yield store
    finally:
        store.close()


def push(store: Store, queue: Any, count: int, make: Callable[[int, datetime], Document] | None = None) -> list[Any]:
    """Create tasks {"n": 0}, {"n": 1}, … in batches, straight through the store; their ids, in order."""
    now = store.now()

    def waiting(number: int, now: datetime) -> Document:
        return records.new_task(queue, {"n": number}, now=now)

    ids: list[Any] = []
    for numbers in batches(count):
        ids += store.insert_tasks([(make or waiting)(number, now) for number in numbers])
    return ids


def batches(count: int) -> Iterator[range]:
    """The numbers below `count`, in parts that a store is handed in one go."""
    for start in range(0, count, BATCH):
        yield range(start, min(start + BATCH, count))


@functools.cache
def why_no_supervisor() -> str | None:
    """Why nodes run their programs themselves here; None: they have a supervisor, unless they are told not to."""
    is_off = os.environ.get("DISBATCH_SUPERVISOR") == "no"
    return "DISBATCH_SUPERVISOR=no" if is_off else connection.why_not_usable()


class Node(NodeProcess):
    """A node of the working tree."""

    def __init__(
        self,
        place: Place,
        url: str,
        *options: str,
        node_id: str = "bench",
        command: Sequence[str] = COMMAND,
        has_supervisor: bool = True,
    ) -> None:
        """`has_supervisor`: where one can be used; if not, the node runs its programs itself."""
        self._has_supervisor = has_supervisor and why_no_supervisor() is None
        alone = {} if has_supervisor else {"DISBATCH_SUPERVISOR": "no"}
        state = place.directory / "state" / place.new_name()
        super().__init__(
            command,
            url=url,
            plugins=place.plugins,
            log=place.directory / f"{node_id}.log",
            node_id=node_id,
            options=options,
            env={**os.environ, "DISBATCH_STATE_DIR": str(state), **alone},
            state=state,
        )

    def wait_until_there(self, store: Store) -> None:
        """And until it runs its programs as it was told: its figures would be shown as another's."""

        def heartbeat(node_id: str) -> Any:
            record = store.get_node(node_id)
            return None if record is None else record.document.get("heartbeat")

        self.wait_for_heartbeat(heartbeat)
        found = self.supervisor_pid
        assert (found is not None) == self._has_supervisor, f"the node's supervisor: unexpectedly {found}"


def rate(
    place: Place,
    kind: str,
    class_name: str,
    *,
    at_once: int,
    tasks: int,
    nodes: int = 1,
    has_supervisor: bool = True,
    beside: Callable[[str], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> float:
    """Tasks a second of nodes on a fresh store whose queue was filled before: from the first start to the last end.
    `beside` gets the URL of the store: what goes on meanwhile."""
    with place.fresh_store(kind) as url, opened(url) as store:
        # Closed at first: nobody starts before all nodes are there.
        queue = store.insert_queue({"_id": class_name, "class": class_name, "maxthreads": 0})
        ids = push(store, queue, tasks)
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(Node(place, url, node_id=f"bench{number}", has_supervisor=has_supervisor))
                for number in range(nodes)
            ]
            for node in running:
                node.wait_until_there(store)
            stack.enter_context(beside(url))
            store.update_queue(queue, {"maxthreads": at_once})
            wait_for_all(store, queue, within_seconds=60 + tasks / 5)
        return rate_of(read(store, ids))


def wait_for_all(store: Store, queue: Any, *, within_seconds: float) -> None:
    """Until no task of the queue is unfinished. Looks so rarely that the looks cost nothing beside the tasks."""
    deadline = time.monotonic() + within_seconds
    while store.has_unfinished([queue]):
        assert time.monotonic() < deadline, f"not all tasks have ended within {within_seconds:.0f} s"
        time.sleep(0.25)


def read(store: Store, ids: Sequence[Any]) -> list[Task]:
    """These tasks as they are now."""
    return [
        task
        for start in range(0, len(ids), 1000)
        for task in store.find_tasks(TaskFilter(ids=ids[start : start + 1000]), with_output=False)
    ]


def rate_of(tasks: Sequence[Task]) -> float:
    """Tasks a second, from the first start to the last end, all of them concluded."""
    wrong = [task for task in tasks if task.status != Status.CONCLUDED]
    assert tasks and not wrong, f"expected concluded tasks, found {wrong[:1]} and {len(wrong) - 1} more"
    seconds = max(task.run["ended"] for task in tasks) - min(task.run["started"] for task in tasks)
    return len(tasks) / seconds.total_seconds()


def wait_for_end(store: Store, task_id: Any, *, within_seconds: float, every_seconds: float = 0.05) -> Task:
    """The task as it is when it has ended."""
    deadline = time.monotonic() + within_seconds
    while True:
        task = store.get_task(task_id)
        assert task is not None
        if statuses.is_finished(task.status):
            return task
        assert time.monotonic() < deadline, f"task {task_id} has not ended within {within_seconds:.0f} s"
        time.sleep(every_seconds)

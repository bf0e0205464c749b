"""Why a task has not started: collects from the store what `decide.why` needs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from disbatch_host.client.finding import find_task
from disbatch_host.decide.why import Snapshot, Why, cause_of
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Queue, Sort, Task, TaskId, whole_number
from disbatch_host.store.contract import Store
from disbatch_protocol.status import IN_HAND, Status

_EXACT_MAX = 2000  # waiting tasks that are read one by one to find a task's place
_PREDECESSORS_MAX = 1000
_IN_HAND_MAX = 10_000


def why(store: Store, task_id: TaskId) -> Why:
    """Why it has not started, as a code from a closed list and a sentence. Raises NotFoundError."""
    return cause_of(snapshot_of(store, task_id))


def snapshot_of(store: Store, task_id: TaskId) -> Snapshot:
    """A task with everything in the store that bears on it. Raises NotFoundError."""
    task = find_task(store, task_id)
    nodes = store.nodes()
    queue = next((one for one in store.queues() if one.id == task.queue), None)
    in_hand: Counter[str] = Counter()
    ahead, is_exact = None, True
    if queue is not None and task.status == Status.CREATED:
        if queue.maxtotal is not None:
            which = TaskFilter(queue=queue.id, statuses=frozenset({int(Status.CLAIMED), int(Status.RUNNING)}))
            found = store.find_tasks(which, limit=_IN_HAND_MAX, with_output=False, in_any_order=True)
            in_hand.update(one.node or "nobody" for one in found)
        ahead, is_exact = _ahead(store, queue, task)
    after = task.document.get("after")
    ids = list(after)[:_PREDECESSORS_MAX] if isinstance(after, (list, tuple)) else []
    predecessors = store.find_tasks(TaskFilter(ids=ids), with_output=False) if ids else ()
    # Read last: everything around it is older than the task, never the other way round.
    task = find_task(store, task_id)
    if task.status in IN_HAND and not any(one.id == task.node for one in nodes):
        nodes = store.nodes()  # its node has just come
    return Snapshot(
        task=task,
        queue=queue,
        nodes=nodes,
        now=store.now(),
        predecessors={str(one.id): one for one in predecessors},
        in_hand=in_hand,
        ahead=ahead,
        is_ahead_exact=is_exact,
    )


def _ahead(store: Store, queue: Queue, task: Task) -> tuple[int | None, bool]:
    """The number of waiting tasks ahead of it in its queue, and whether that is exact: if very many wait,
    priorities are ignored."""
    waiting = TaskFilter(queue=queue.id, statuses=frozenset({int(Status.CREATED)}))
    is_newest_first = queue.sort is Sort.LIFO
    found = list(store.find_tasks(waiting, limit=_EXACT_MAX + 1, newest_first=is_newest_first, with_output=False))
    if len(found) <= _EXACT_MAX:
        # A stable sort keeps tasks of the same priority in order.
        order = [one.id for one in sorted(found, key=lambda one: -_priority(one))]
        return (order.index(task.id) if task.id in order else None), True
    ctime: Any = task.document.get("ctime")
    bounds = {"created_since" if is_newest_first else "created_before": ctime}
    count = store.count_tasks(TaskFilter(queue=queue.id, statuses=waiting.statuses, **bounds))
    return max(0, count - is_newest_first), False


def _priority(task: Task) -> int:
    return whole_number(task.document.get("priority")) or 0

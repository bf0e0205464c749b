"""Tasks that are left alone for a while, since the store refuses what is due for them.

Responsible for: remembering them, and logging each once. Must not know: what was to be done with them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from disbatch_host.documents.changes import TaskChange
from disbatch_host.documents.records import TaskId
from disbatch_host.errors import ChangesRefusedError
from disbatch_host.store.contract import Store

log = logging.getLogger(__name__)

_SECONDS = 2.0  # after the first refusal
_SECONDS_MAX = 300.0
_MOST = 1000  # tasks that are remembered


class Resting:
    """Tasks that are due and of which the store refuses a change, and until when each is left alone: longer each time.
    Used in the store's thread."""

    def __init__(self) -> None:
        self._until: dict[TaskId, tuple[float, float]] = {}  # by the monotonic clock, and how long that is

    def __contains__(self, task: TaskId) -> bool:
        return task in self._until and time.monotonic() < self._until[task][0]

    def add(self, task: TaskId, why: object) -> None:
        """The store refused a change that this task needs."""
        _, last = self._until.pop(task, (0.0, 0.0))
        if not last:
            log.error("what is due for task %s cannot be done: %s", task, why)
        seconds = min(2 * last or _SECONDS, _SECONDS_MAX)
        self._until[task] = (time.monotonic() + seconds, seconds)
        if len(self._until) > _MOST:
            del self._until[next(iter(self._until))]


def change_tasks(store: Store, changes: Sequence[TaskChange]) -> tuple[set[TaskId], Mapping[TaskId, object]]:
    """Make these changes. Returns the ids of those that were not made, and why the store refused some of them."""
    try:
        return store.change_tasks(changes), {}
    except ChangesRefusedError as error:
        return error.not_carried_out, error.reasons

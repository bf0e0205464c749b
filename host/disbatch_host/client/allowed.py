"""The statuses that each verb accepts in a selection.

Each check takes the words and numbers of a `Selection` and raises FieldError for a status that the verb cannot change:
anyone who names one expects something to happen, and nothing would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from disbatch_host.client import finding
from disbatch_host.client.finding import Selection
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.errors import FieldError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status, may_become

Words = str | int | Sequence[str | int]

FAILED = ("failed",)  # retried by default; terminated ones are among them
# Of one cause of failure: naming it means all of its tasks. None of them concluded.
FAILED_SOMEHOW = ("failed", "orphaned", "cancelled")


def check_cancellable(words: Words) -> None:
    for_what = "tasks that can be cancelled"
    _check(words, lambda one: may_become(one, Status.CANCELLED), for_what, "waiting, running or orphaned ones")


def check_retriable(words: Words) -> None:
    def is_retriable(status: int) -> bool:
        return statuses.is_finished(status) and may_become(status, Status.CREATED)

    _check(words, is_retriable, "tasks that have ended", "unfinished tasks cannot be run again")


def check_deletable(words: Words) -> None:
    hint = "cancel unfinished tasks first"
    _check(words, statuses.is_finished, "tasks that have ended", hint)


def check_releasable(words: Words) -> None:
    for value in finding.statuses_of(words)[0] or ():
        if value != Status.BLOCKED:
            raise FieldError("status", f"expected blocked, found {statuses.name(value)}: nothing else is released")


def _check(words: Words, is_allowed: Callable[[int], bool], for_what: str, hint: str) -> None:
    # 'failed' stands for terminated as well: it is named by its own word.
    for value in sorted(finding.statuses_of(words)[0] or (), key=lambda one: (one == Status.TERMINATED, one)):
        if not is_allowed(value):
            found = statuses.name(value)
            raise FieldError("status", f"expected only statuses of {for_what}, found {found}; {hint}")


def cancellable(store: Store, selection: Selection, by: str) -> TaskFilter:
    """The tasks that `cancel` takes from a selection: without a status, all unfinished ones. Raises UsageError,
    FieldError among them, and NotFoundError."""
    check_cancellable(selection.status)
    return _filter_of(store, selection, by, ("unfinished",))


def retriable(store: Store, selection: Selection, by: str) -> TaskFilter:
    """The tasks that `retry` takes from a selection: without a status, failed and terminated ones. Raises likewise."""
    check_retriable(selection.status)
    return _filter_of(store, selection, by, FAILED if selection.failure is None else FAILED_SOMEHOW)


def releasable(store: Store, selection: Selection, by: str) -> TaskFilter:
    """The tasks that `release` takes from a selection: blocked ones. Raises likewise."""
    check_releasable(selection.status)
    return _filter_of(store, selection, by, ("blocked",))


def deletable(store: Store, selection: Selection, by: str, older: timedelta | None = None) -> TaskFilter:
    """The tasks that `delete` takes from a selection. `older`: only tasks that ended longer ago than this. Raises
    likewise, and if neither a status nor a cause of failure is named."""
    if selection.status == () and selection.failure is None:
        raise FieldError("status", "expected a status, such as 'concluded', found none")
    check_deletable(selection.status)
    which = _filter_of(store, selection, by, () if selection.failure is None else FAILED_SOMEHOW)
    return which if older is None else replace(which, changed_before=store.now() - older)


def _filter_of(store: Store, selection: Selection, by: str, default: tuple[str, ...]) -> TaskFilter:
    if selection.queue is None and selection.batch is None and selection.failure is None:
        raise UsageError(
            "expected ids of tasks, or a selection that names a queue or a batch, found a selection without one"
        )
    words = default if selection.status == () else selection.status
    return finding.filter_of(store, replace(selection, status=words), by)

"""Which tasks a verb may be asked to change, by the statuses that a selection names.

Each check takes the words and numbers of a `Selection` and raises FieldError for a status that the verb is not for:
a person who names one means something else than what would happen, which is nothing.
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

FAILED = ("failed", "terminated")  # what is run again where nobody says otherwise


def check_cancellable(words: Words) -> None:
    for_what = "tasks that can be cancelled"
    _check(words, lambda one: may_become(one, Status.CANCELLED), for_what, "waiting, running and orphaned ones can be")


def check_retriable(words: Words) -> None:
    def is_retriable(status: int) -> bool:
        return statuses.is_finished(status) and may_become(status, Status.CREATED)

    _check(words, is_retriable, "tasks that have ended", "what has not ended is not run again")


def check_deletable(words: Words) -> None:
    hint = "what has not ended is cancelled first (`disbatch-host task cancel`)"
    _check(words, statuses.is_finished, "tasks that have ended", hint)


def _check(words: Words, is_allowed: Callable[[int], bool], for_what: str, hint: str) -> None:
    for value in sorted(finding.statuses_of(words)[0] or ()):
        if not is_allowed(value):
            found = statuses.name(value)
            raise FieldError("status", f"expected only statuses of {for_what}, found {found}; {hint}")


def cancellable(store: Store, selection: Selection) -> TaskFilter:
    """What a selection means to `cancel`: without a status, all that have not ended. Raises UsageError, FieldError
    among them, and NotFoundError."""
    check_cancellable(selection.status)
    return _filter_of(store, selection, ("unfinished",))


def retriable(store: Store, selection: Selection) -> TaskFilter:
    """What a selection means to `retry`: without a status, all that have failed or were terminated. Raises likewise."""
    check_retriable(selection.status)
    return _filter_of(store, selection, FAILED)


def deletable(store: Store, selection: Selection, older: timedelta | None = None) -> TaskFilter:
    """What a selection means to `delete`. `older`: only tasks that ended longer ago than this. Raises likewise, also
    where no status is named."""
    if selection.status == ():
        raise FieldError("status", "expected one like 'concluded', found none")
    check_deletable(selection.status)
    which = _filter_of(store, selection, ())
    return which if older is None else replace(which, changed_before=store.now() - older)


def _filter_of(store: Store, selection: Selection, default: tuple[str, ...]) -> TaskFilter:
    if selection.queue is None:
        raise UsageError("expected ids of tasks, or a selection that names a queue, found a selection without one")
    words = default if selection.status == () else selection.status
    return finding.filter_of(store, replace(selection, status=words))

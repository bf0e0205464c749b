"""A part of the contract of a store: how people look for tasks. See `contract`, whose rules hold here."""

from __future__ import annotations

from typing import Protocol

from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.conditions import PAGE_SECONDS, Page
from disbatch_host.documents.records import TaskId
from disbatch_host.store.contract.answers import Counted


class Lookups(Protocol):
    """Finding tasks among millions, a page at a time."""

    def find_page(
        self,
        which: TaskFilter,
        *,
        limit: int,
        newest_first: bool = True,
        cursor: str | None = None,
        with_parameters: bool = True,
        budget_seconds: float = PAGE_SECONDS,
    ) -> Page:
        """Some tasks in the order of creation, without their output. `cursor`: the `next` or `previous` of another page
        of this filter in this order; tasks that were created or deleted meanwhile do not matter to it.

        Cost: by `limit`, wherever the page is, if the filter has only a queue and statuses. For all else tasks are
        looked at one after another for about `budget_seconds`; what was found until then is returned, with a cursor to
        go on from there (`Page.is_cut`). Raises FieldError for a text that is not a cursor of this store."""

    def count_within(self, which: TaskFilter, *, budget_seconds: float) -> Counted:
        """How many tasks there are, as far as they can be counted in about so many seconds."""

    def ids_beginning(self, text: str, limit: int = 2) -> list[TaskId]:
        """The ids of some tasks that begin with this text, which is hexadecimal digits in lower case, in the order of
        the ids. Cost: by `limit`."""

"""Counting as far as there is time.

Responsible for: that. Must not know: what is counted.
"""

from __future__ import annotations

import time
from typing import Any

from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents.records import Document
from disbatch_host.store.contract.answers import Counted

IS_OVER = frozenset({50, 262})  # codes of the server: the time that a query was given
_FIRST, _TIMES = 1000, 10  # how many are counted first, and how many times as many with each further attempt


def milliseconds_left(deadline: float) -> int:
    """For `maxTimeMS`: to the server, 0 means for ever."""
    return max(1, int((deadline - time.monotonic()) * 1000))


def count_within(tasks: Collection[Document], condition: Document, seconds: float) -> Counted:
    """How many documents meet a condition: all of them, or as many as were counted in time."""
    deadline = time.monotonic() + seconds
    known, most = 0, _FIRST
    while True:
        options: dict[str, Any] = {"limit": most, "maxTimeMS": milliseconds_left(deadline)}
        try:
            found = tasks.count_documents(condition, **options)
        except driver.OperationFailure as error:
            if error.code not in IS_OVER:
                raise
            return Counted(value=known, is_exact=False)
        if found < most:
            return Counted(value=found, is_exact=True)
        known, most = found, most * _TIMES

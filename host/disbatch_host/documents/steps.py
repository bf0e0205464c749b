"""The steps by which an existing task gets a status: their fields, and those that stores make by themselves. Pure.

Responsible for: being the one place that sets `status`. Must not know: why a task changes (`transitions`), stores. It
imports little because every command that opens a store imports it.

Rule: a step is one of `disbatch_protocol.status.TRANSITIONS`; any other raises ImpossibleStepError when it is named
(`Step`) or when a change is constructed (`changes`).
"""

from __future__ import annotations

from datetime import datetime

from disbatch_host.documents.records import NOBODY, Document
from disbatch_protocol.status import Status, Step

# Stores make these two for many tasks at once, without a change for each.
CLAIM = Step(Status.CREATED, Status.CLAIMED)
PROMOTE = Step(Status.BLOCKED, Status.CREATED)


def entering(new: int, now: datetime) -> Document:
    """The fields that every change of status sets."""
    return {"status": int(new), "mtime": now}


def claimed_fields(node_id: str, token: str, *, at: datetime, now: datetime) -> Document:
    """The fields that a claim (`CLAIM`) sets. `at`: the time that counts toward the rate of the queue."""
    return {**entering(CLAIM.new, now), "node": node_id, "claim": {"token": token, "at": at}}


def promoted_fields(*, now: datetime) -> Document:
    """The fields that promoting a task that is due (`PROMOTE`) sets; its `not_before` is removed."""
    return {**entering(PROMOTE.new, now), "node": NOBODY}

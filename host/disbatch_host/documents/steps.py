"""How a task that exists gets a status: the fields of a step, and the steps that stores make by themselves. Pure.

Responsible for: being the one place that sets `status`. Must not know: why a task changes (`transitions`), stores. It
imports little, since every command that opens a store imports it.

Rule: a step is one of `disbatch_protocol.status.TRANSITIONS`; any other raises ImpossibleStepError, where it is named
(`Step`) or where a change is constructed (`changes`).
"""

from __future__ import annotations

from datetime import datetime

from disbatch_host.documents.records import NOBODY, Document
from disbatch_protocol.status import Status, Step

# Stores make these two of many tasks at once, without a change for each.
CLAIM = Step(Status.CREATED, Status.CLAIMED)
PROMOTE = Step(Status.BLOCKED, Status.CREATED)


def entering(new: int, now: datetime) -> Document:
    """What every change to a status sets."""
    return {"status": int(new), "mtime": now}


def claimed_fields(node_id: str, token: str, *, at: datetime, now: datetime) -> Document:
    """What a claim (`CLAIM`) sets. `at`: the time that counts for the rate of the queue."""
    return {**entering(CLAIM.new, now), "node": node_id, "claim": {"token": token, "at": at}}


def promoted_fields(*, now: datetime) -> Document:
    """What the promotion of a task that is due (`PROMOTE`) sets; its `not_before` goes."""
    return {**entering(PROMOTE.new, now), "node": NOBODY}

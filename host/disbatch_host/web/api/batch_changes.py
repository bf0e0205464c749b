"""What people do with batches: close, cancel, run again, delete; each as an operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disbatch_host.client import Selection, operations
from disbatch_host.client.operations import Operation
from disbatch_host.errors import UsageError
from disbatch_host.web import schemas
from disbatch_host.web.api.batches import batch_of
from disbatch_host.web.api.operations import OPERATION, accepted, begun, jobs_of
from disbatch_host.web.api.tasks import reason_in
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role
from disbatch_host.web.route import Body, Route


def _close(call: Call) -> Answer:
    batch = batch_of(call)
    store = call.client.store
    closed, is_new = call.client.batches.close(batch.id)
    if not is_new:
        raise Problem(Code.CLOSED, f"batch {batch.id} was {closed.state} already")
    job = operations.done_already(
        jobs_of(call), "close", call.who.by, store.now(), str(call.new_ids(1)[0]), outcomes={"closed": 1}
    )
    return accepted(call, job)


def _cancel(call: Call) -> Answer:
    batch = batch_of(call)
    return _begun(call, "cancel", Selection(batch=batch.id, failure=None, status=("unfinished",)), {})


def _retry(call: Call) -> Answer:
    batch = batch_of(call)
    body: Mapping[str, Any] = call.body or {}
    then = {"arms": batch.id} if body.get("again") else {}
    return _begun(call, "retry", Selection(batch=batch.id, failure=body.get("failure")), then)


def _delete(call: Call) -> Answer:
    batch = batch_of(call)
    try:
        call.client.batches.done(batch.id)
    except UsageError as error:
        raise Problem(Code.UNFINISHED, str(error)) from error
    return _begun(call, "delete", Selection(batch=batch.id, status=("finished",)), {"deletes": batch.id})


def _begun(call: Call, action: str, selection: Selection, then: Mapping[str, Any]) -> Answer:
    """All tasks of the batch that it is for, as they are now."""
    store = call.client.store
    wanted = Operation(action=action, selection=selection, reason=reason_in(call), then=then)
    settled = operations.settled(store, wanted)
    until = store.now()
    return begun(call, settled, until, store.count_tasks(settled.meant(store, until)))


_REASON = Body(schema=schemas.WITH_REASON, is_required=False)
_AGAIN = schemas.object_of(
    reason=schemas.REASON,
    failure={"type": "string", "description": "Only the tasks that failed for this cause: its key."},
    again={"type": "boolean", "description": "Let on_done create its task once more, when all have ended."},
)
_ACCEPTED = {202: OPERATION}
ROUTES = (
    Route(
        method="POST", path="/batches/{b}/close", role=Role.OPERATE, does=_close, about=Code.BATCH, body=_REASON,
        answers=_ACCEPTED, words="Nobody adds tasks to it any more.", problems=(Code.CLOSED,),
    ),
    Route(
        method="POST", path="/batches/{b}/cancel", role=Role.OPERATE, does=_cancel, about=Code.BATCH, body=_REASON,
        answers=_ACCEPTED, words="Cancel its unfinished tasks.",
    ),
    Route(
        method="POST", path="/batches/{b}/retry", role=Role.OPERATE, does=_retry, about=Code.BATCH,
        body=Body(schema=_AGAIN, is_required=False), answers=_ACCEPTED, problems=(Code.FAULTS,),
        words="Run its failed tasks again, or those of one cause.",
    ),
    Route(
        method="DELETE", path="/batches/{b}", role=Role.ADMIN, does=_delete, about=Code.BATCH, answers=_ACCEPTED,
        words="Delete it with its tasks and their output, once it is done.", problems=(Code.UNFINISHED,),
    ),
)  # fmt: skip

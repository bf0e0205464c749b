"""Batches: tasks that were created together."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from disbatch_host.client import Selection
from disbatch_host.client.batches import shown
from disbatch_host.documents.batch import Batch
from disbatch_host.web.api.failures import failures_json
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.documents import plain
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.queries import PAGING
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route
from disbatch_host.web.small_lists import ANSWER, small_page

_CAUSES = 10
_CAUSES_SECONDS = 0.5


def batch_of(call: Call) -> Batch:
    """The batch that the path names. Raises NotFoundError, Problem."""
    require_all_queues(call)
    return call.client.batches.get(call.path["b"])


def require_all_queues(call: Call) -> None:
    """A batch may have tasks of any queue. Raises Problem for somebody who may not see them all."""
    if call.who.queues is not None:
        raise Problem(Code.ROLE, f"batches may span queues, and {call.who.name} sees only some of them")


def _list(call: Call) -> Answer:
    require_all_queues(call)
    ids = {_key(*one): one[1] for one in call.client.batches.ids(states=call.query.get("state"))}
    order = call.query.get("order", "newest")
    page = small_page(call, list(ids), order=order, is_descending=order == "newest")
    documents = [call.client.store.get_batch(ids[key]) for key in page.keys]
    found = [Batch.from_document(one) for one in documents if one is not None]  # one may just have been deleted
    return page.answer(call, [with_progress(call, one) for one in found], "batches")


def _key(created: datetime | None, batch_id: str) -> str:
    return f"{'' if created is None else created.isoformat()} {batch_id}"


def with_progress(call: Call, batch: Batch) -> dict[str, Any]:
    """A batch, and how far it has come."""
    progress = plain(call, call.client.batches.progress(batch.id).to_json())
    links = {"self": call.link("batches", batch.id), "tasks": f"{call.link('tasks')}?{urlencode({'batch': batch.id})}"}
    return {**plain(call, shown(batch)), "progress": progress, "_links": links}


def _get(call: Call) -> Answer:
    batch = batch_of(call)
    found = call.client.failures(Selection(batch=batch.id), limit=_CAUSES, seconds=_CAUSES_SECONDS)
    return Answer(body={**with_progress(call, batch), "causes": failures_json(call, found)["groups"]}, has_tag=True)


_STATE = {"type": "array", "items": {"type": "string"}, "description": "open, closed, done; several may be named."}
ROUTES = (
    Route(
        method="GET", path="/batches", role=Role.READ, does=_list,
        query={"state": _STATE, **PAGING}, answers={200: ANSWER}, problems=(Code.CURSOR,),
        words="Batches, with their counts and how far they have come.",
    ),
    Route(
        method="GET", path="/batches/{b}", role=Role.READ, does=_get, about=Code.BATCH,
        words="One batch: its document, counts, causes of failures, slowest tasks.",
    ),
)  # fmt: skip

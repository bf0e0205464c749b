"""Batches: tasks that were created together."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from disbatch_host.client import Selection
from disbatch_host.client.batches import shown
from disbatch_host.documents.batch import Batch
from disbatch_host.web.api.failures import failures_json
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.documents import plain
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.queries import LIMIT, PAGING, cursor_for, cursor_of, link_header
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route

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
    states = call.query.get("state")
    limit, after = call.query.get("limit", LIMIT), cursor_of(call)
    found, own = call.client.batches.page(limit, states=states, after=after)
    following = cursor_for(call, own)
    links = {} if following is None else link_header(call, {"next": following}, "batches")
    body = {"items": [with_progress(call, one) for one in found], "next": following}
    return Answer(body=body, headers=links, has_tag=True)


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
_CURSOR = {"type": "string", "description": "`next` of another page of the same list."}
ROUTES = (
    Route(
        method="GET", path="/batches", role=Role.READ, does=_list,
        query={"state": _STATE, "limit": PAGING["limit"], "cursor": _CURSOR}, problems=(Code.CURSOR,),
        words="The newest batches, with their counts and how far they have come.",
    ),
    Route(
        method="GET", path="/batches/{b}", role=Role.READ, does=_get, about=Code.BATCH,
        words="One batch: its document, counts, causes of failures, slowest tasks.",
    ),
)  # fmt: skip

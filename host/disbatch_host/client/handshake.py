"""Waiting until every living node claims by what the queues say now, so that a pause is a pause.

Responsible for: asking the nodes to read the queues again, and finding out which of them have. Must not know: what was
changed, how the nodes that have not are shown.

Rules:
1. The queue is changed first, then the nodes are asked (`requests.queues` in their documents, with a fresh token). A
   node that has read the queues after it saw the request, and has no claim on its way that was begun before, repeats
   the token as `queues_read`.
2. A token that another command has written over ours meanwhile was written after it, so its answer serves as well: what
   counts is that a node has answered the request that is in its document.
3. A node that does not have the field `queues_read` is of a version that cannot answer: it counts as not known. So does
   one that is alive by its heartbeat and does not answer. Nodes of other programs never claim from queues of this one.
4. Where each claim itself looks whether a queue is paused, at its `maxthreads` and at its nodes
   (`Connection.claims_read_queues`), of these changes only rule 3 is left.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

from disbatch_host.client.requests import request
from disbatch_host.decide import readings
from disbatch_host.documents.records import NodeRecord
from disbatch_host.store.contract import Store

WITHIN_SECONDS = 3.0
_LOOK_SECONDS = 0.02


def nodes_without_news(
    store: Store, by: str, within_seconds: float = WITHIN_SECONDS, *, is_seen_by_claims: bool = False
) -> list[str]:
    """Wait until every living node claims by what the queues say now, at most `within_seconds`. Returns the ids of
    those of which that is not known. `is_seen_by_claims`: the change is one of those of rule 4."""
    deadline = time.monotonic() + within_seconds
    asked: dict[str, str | None] = {}  # the sessions of the nodes that have to answer
    value = {**request(by, None, now=store.now()), "token": uuid.uuid4().hex}
    for node in store.nodes():
        if not _may_claim(node) or (is_seen_by_claims and store.claims_read_queues and can_answer(node)):
            continue
        if can_answer(node) and not store.request_of_node(node.id, "queues", value):
            continue  # it has just ended
        asked[node.id] = node.session
    while asked:
        # One that was started again meanwhile has read the queues since.
        asked = {
            node.id: node.session
            for node in store.nodes()
            if node.id in asked and node.session == asked[node.id] and _may_claim(node) and not _has_answered(node)
        }
        if time.monotonic() >= deadline:
            break
        if asked:
            time.sleep(_LOOK_SECONDS)
    return sorted(asked)


def _may_claim(node: NodeRecord) -> bool:
    return node.is_ours and readings.is_alive(node) and node.state == "running"


def can_answer(node: NodeRecord) -> bool:
    """Whether a node is of a version that knows of this."""
    return "queues_read" in node.document


def _has_answered(node: NodeRecord) -> bool:
    asked = node.requests.get("queues")
    token = asked.get("token") if isinstance(asked, Mapping) else None
    return token is not None and node.document.get("queues_read") == token

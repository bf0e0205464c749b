"""Documents that the tests of the client put into a store."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from disbatch_host.documents.records import TaskId, new_task
from disbatch_host.store.contract import Store

NEVER_ALIVE = {"dead_after_seconds": -1}  # settings of a node whose heartbeat is always too old


def put_node(store: Store, node_id: str = "n1", session: str = "s1", **more: Any) -> None:
    """A node of this program, which has just had a heartbeat."""
    document = {"_id": node_id, "session": session, "version": "disbatch-host 0.2.0", "state": "running"}
    heartbeat = more.pop("heartbeat", {"pid": 7, "queues": []})
    assert store.put_node({**document, "heartbeat": heartbeat, **more}, replacing=None)


def beat(store: Store, state: str, node_id: str = "n1", session: str = "s1", **more: Any) -> None:
    """A heartbeat of such a node."""
    fields = {"heartbeat": {"pid": 7, "queues": []}, "state": state, **more}
    assert store.heartbeat(node_id, session, fields) is not None


def away(store: Store, seconds: float = 600, **more: Any) -> dict[str, Any]:
    """What is in the document of a node that has left with runs."""
    until = store.now() + timedelta(seconds=seconds)
    return {"state": "away", "away": {"until": until, "by": "ann@here", **more}}


def put_task(store: Store, queue: str = "q", *, age_seconds: float = 0, **fields: Any) -> TaskId:
    """A task as it is after whatever has happened to it; last changed so long ago."""
    at = store.now() - timedelta(seconds=age_seconds)
    document = {**new_task(queue, fields.pop("parameters", {}), now=at), **fields}
    return store.insert_tasks([document])[0]

"""Documents as the API shows them: plain JSON by the schemas, masked, with links.

Responsible for: the JSON forms that several routes share. Must not know: HTTP, routes.

Rules:
1. A document that does not fit its schema is `{"_id", "fault", "document"}`: readers of lists find it there, and
   need not guess at the others.
2. The token of an attempt never leaves: anyone who has it could write as the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from disbatch_host.client import Client
from disbatch_host.documents.records import Queue, Task
from disbatch_host.web.call import Call
from disbatch_protocol.document import readable_line

_OUTPUT = frozenset({"stdout", "stderr"})
_LONG = frozenset({"log", "attempts"})
_SECRET = frozenset({"claim"})


def plain(call: Call, document: Mapping[str, Any]) -> dict[str, Any]:
    """A stored document as JSON values."""
    return plain_of(call.client, document)


def plain_of(client: Client, document: Mapping[str, Any]) -> dict[str, Any]:
    """The same, where there is no request."""
    found: dict[str, Any] = orjson.loads(readable_line(document, other=client.store.extended_json))
    return found


def task_json(call: Call, task: Task, masked: Mapping[str, Any], *, is_whole: bool = True) -> dict[str, Any]:
    """A task. `masked`: its document, its secrets masked. Without `is_whole`, its output, log and attempts are left
    out."""
    left_out = _OUTPUT if is_whole else _OUTPUT | _LONG
    shown = plain(call, {name: value for name, value in without_tokens(masked).items() if name not in left_out})
    if task.fault is not None:
        document = {name: value for name, value in shown.items() if name != "fault"}
        return {"_id": str(task.id), "fault": task.fault, "document": document, "_links": task_links(call, task)}
    return {**shown, "_links": task_links(call, task)}


def without_tokens(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a task without the tokens of its attempts (rule 2)."""

    def without(run: Any) -> Any:
        return {name: value for name, value in run.items() if name != "token"} if isinstance(run, Mapping) else run

    shown = {name: value for name, value in document.items() if name not in _SECRET}
    if "run" in shown:
        shown["run"] = without(shown["run"])
    if isinstance(shown.get("attempts"), (list, tuple)):
        shown["attempts"] = [*map(without, shown["attempts"])]
    return shown


def task_links(call: Call, task: Task) -> dict[str, str]:
    """Where everything about a task is."""
    name = str(task.id)
    batch = task.document.get("batch")
    return {
        "self": call.link("tasks", name),
        "queue": call.link("queues", str(task.queue)),
        "stdout": call.link("tasks", name, "output", "stdout"),
        "stderr": call.link("tasks", name, "output", "stderr"),
        "events": call.link("tasks", name, "events"),
        **({"batch": call.link("batches", batch)} if isinstance(batch, str) else {}),
    }


def queue_json(call: Call, queue: Queue) -> dict[str, Any]:
    """A queue's document."""
    shown = plain(call, queue.document)
    links = {"self": call.link("queues", str(queue.id)), "tasks": call.link("queues", str(queue.id), "tasks")}
    if queue.fault is not None:
        return {"_id": str(queue.id), "fault": queue.fault, "document": shown, "_links": links}
    return {**shown, "_links": links}

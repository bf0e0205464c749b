"""Nodes: lists, one node, and what people ask of it."""

from __future__ import annotations

from typing import Any

from disbatch_host.client import Selection
from disbatch_host.client.nodes import Asked, life_of, to_json
from disbatch_host.documents.records import NodeRecord
from disbatch_host.web import schemas
from disbatch_host.web.api.tasks import reason_in
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.documents import plain, task_json
from disbatch_host.web.problems import Code
from disbatch_host.web.role import Role
from disbatch_host.web.route import Body, Route

_RUNNING_MAX = 100  # tasks that are shown with a node


def node_json(call: Call, record: NodeRecord) -> dict[str, Any]:
    """A node; its name and its state alone for somebody who does not see all queues."""
    links = {"self": call.link("nodes", record.id), "tasks": f"{call.link('tasks')}?node={record.id}"}
    if call.who.queues is not None:
        return {"_id": record.id, "life": life_of(record), "_links": links}
    return {**plain(call, to_json(record)), "life": life_of(record), "is_ours": record.is_ours, "_links": links}


def _list(call: Call) -> Answer:
    return Answer(body={"items": [node_json(call, one) for one in call.client.nodes.list()]}, has_tag=True)


def _get(call: Call) -> Answer:
    record = call.client.nodes.get(call.path["n"])
    body = node_json(call, record)
    if call.who.queues is None:
        page = call.client.page(Selection(node=record.id, status=("running",)), limit=_RUNNING_MAX)
        masked = call.client.masker().document
        body["running_tasks"] = [task_json(call, one, masked(one), is_whole=False) for one in page.tasks]
    return Answer(body=body, has_tag=True)


def _asked(call: Call, asked: Asked) -> Answer:
    record = call.client.nodes.get(asked.node.id)
    return Answer(body={**node_json(call, record), "is_confirmed": asked.is_confirmed})


def _drain(call: Call) -> Answer:
    return _asked(call, call.client.nodes.drain(call.path["n"], why=reason_in(call)))


def _resume(call: Call) -> Answer:
    return _asked(call, call.client.nodes.resume(call.path["n"]))


def _stop(call: Call) -> Answer:
    return _asked(call, call.client.nodes.stop(call.path["n"], why=reason_in(call)))


def _delete(call: Call) -> Answer:
    call.client.nodes.delete(call.path["n"])
    return Answer()


_ACTIONS = (
    ("drain", Role.OPERATE, _drain, "It claims nothing more; its running tasks finish."),
    ("resume", Role.OPERATE, _resume, "It claims tasks again."),
    ("stop", Role.ADMIN, _stop, "It finishes its running tasks and ends."),
)
ROUTES = (
    Route(method="GET", path="/nodes", role=Role.READ, does=_list, words="All nodes."),
    Route(
        method="GET", path="/nodes/{n}", role=Role.READ, does=_get, about=Code.NODE, words="One node and its tasks.",
    ),
    *(
        Route(
            method="POST", path=f"/nodes/{{n}}/{name}", role=role, does=does, words=words, about=Code.NODE,
            body=Body(schema=schemas.WITH_REASON, is_required=False), answers={202: {"type": "object"}},
            problems=(Code.FOREIGN,),
        )
        for name, role, does, words in _ACTIONS
    ),
    Route(
        method="DELETE", path="/nodes/{n}", role=Role.ADMIN, does=_delete, about=Code.NODE, answers={204: None},
        words="Forget a dead node.", problems=(Code.ALIVE,),
    ),
)  # fmt: skip

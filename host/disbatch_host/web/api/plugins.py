"""Plugins: what nodes here and elsewhere say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disbatch_host.errors import NotFoundError
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.documents import plain
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route


def _list(call: Call) -> Answer:
    items = [_brief(call, name) for name in call.client.plugins.classes() if _sees(call, name)]
    return Answer(body={"items": items}, has_tag=True)


def _brief(call: Call, class_name: str) -> dict[str, Any]:
    try:
        found = plain(call, call.client.plugins.help(class_name).to_json())
    except NotFoundError as error:  # only a queue has it
        found = {"class": class_name, "queues": _queues(call, class_name), "faults": [str(error)]}
    found["queues"] = _seen(call, found)
    names = ("class", "description", "version", "queues", "nodes", "versions", "faults")
    return {**{name: found.get(name) for name in names}, "_links": {"self": call.link("plugins", class_name)}}


def _get(call: Call) -> Answer:
    name = call.path["class"]
    if not _sees(call, name):
        raise Problem(Code.PLUGIN, f"no plugin {name!r:.80} for {call.who.name}")
    found = plain(call, call.client.plugins.help(name).to_json())
    return Answer(body={**found, "queues": _seen(call, found)}, has_tag=True)


def _seen(call: Call, plugin: Mapping[str, Any]) -> list[str]:
    """Its queues that this person may see."""
    return [one for one in plugin["queues"] if call.who.sees(one)]


def _queues(call: Call, class_name: str) -> list[str]:
    return [str(one.queue.id) for one in call.client.queues.list(class_name=class_name)]


def _sees(call: Call, class_name: str) -> bool:
    """A class is seen by those who see one of its queues."""
    if call.who.queues is None:
        return True
    return any(map(call.who.sees, _queues(call, class_name)))


ROUTES = (
    Route(method="GET", path="/plugins", role=Role.READ, does=_list, words="The classes that queues or nodes have."),
    Route(
        method="GET", path="/plugins/{class}", role=Role.READ, does=_get, about=Code.PLUGIN,
        words="One class: parameters, examples, README, versions, queues and nodes.",
    ),
)  # fmt: skip

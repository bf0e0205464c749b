"""Nodes: the list, one of them, and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disbatch_host.decide import readings
from disbatch_host.documents.records import NodeRecord
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.pages.tasks import rows_of
from disbatch_host.web.problems import Code
from disbatch_host.web.role import Role

_ROLES = {"drain": Role.OPERATE, "resume": Role.OPERATE, "stop": Role.ADMIN}


def _list(view: View) -> Shown:
    items = view.ask("GET /nodes").body["items"]
    for one in items:
        one["load"] = _load(one)
    programs = {one.get("version") for one in items if one.get("life") != "dead"}
    values = {"nodes": items, "are_different": len(programs) > 1, "sees_all": view.who.queues is None}
    return Html(template="nodes.html", title="Nodes", values=values)


def _load(node: Mapping[str, Any]) -> dict[str, Any]:
    heartbeat = node.get("heartbeat") if isinstance(node.get("heartbeat"), Mapping) else {}
    settings = node.get("settings") if isinstance(node.get("settings"), Mapping) else {}
    assert isinstance(heartbeat, Mapping)
    assert isinstance(settings, Mapping)
    return {"running": heartbeat.get("running") or 0, "of": settings.get("max_total")}


def _show(view: View) -> Shown:
    node = view.ask("GET /nodes/{n}", n=view.path["n"]).body
    record = view.client.nodes.get(view.path["n"])
    sees_all = view.who.queues is None
    values = {
        "node": node, "name": view.path["n"], "load": _load(node), "sees_all": sees_all,
        "running": rows_of(node.get("running_tasks", ())), "plugins": _plugins(record) if sees_all else [],
        "troubles": [*readings.passed_over_of(record), *readings.troubles_of(record)] if sees_all else [],
        "served": readings.heartbeat_queues(record) if sees_all else [],
        "requests": record.requests if sees_all else {},
    }  # fmt: skip
    return Html(template="node.html", title=f"{view.path['n']} (node)", values=values)


def _plugins(record: NodeRecord) -> list[dict[str, Any]]:
    aside, broken = readings.set_aside_of(record), readings.broken_of(record)
    versions = readings.versions_of(record)
    names = sorted({*readings.classes_of(record), *aside, *broken})
    return [
        {"class": one, "version": versions.get(one, ""), "aside": aside.get(one), "broken": broken.get(one)}
        for one in names
    ]


def _ask(wish: str) -> Any:
    def ask(view: View) -> Shown:
        reason = view.given("reason").strip()
        view.ask(f"POST /nodes/{{n}}/{wish}", body={"reason": reason} if reason else None, n=view.path["n"])
        return SeeOther(to=view.url("nodes", view.path["n"]))

    return ask


def _delete(view: View) -> Shown:
    view.ask("DELETE /nodes/{n}", n=view.path["n"])
    return SeeOther(to=view.url("nodes"))


PAGES = (
    Page(path="/nodes", does=_list),
    Page(path="/nodes/{n}", does=_show, about=Code.NODE),
    *(
        Page(path=f"/nodes/{{n}}/{wish}", does=_ask(wish), method="POST", role=role, about=Code.NODE)
        for wish, role in _ROLES.items()
    ),
    Page(path="/nodes/{n}/delete", does=_delete, method="POST", role=Role.ADMIN, about=Code.NODE),
)

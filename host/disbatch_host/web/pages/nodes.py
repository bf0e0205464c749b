"""Nodes: the list, one of them, and what is asked of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from disbatch_host.client.overview import node_facts
from disbatch_host.decide import readings
from disbatch_host.documents.records import NodeRecord
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.pages.tasks import rows_of
from disbatch_host.web.pages.words import span
from disbatch_host.web.problems import Code
from disbatch_host.web.role import Role

_ROLES = {"drain": Role.OPERATE, "resume": Role.OPERATE, "stop": Role.ADMIN}


def _list(view: View) -> Shown:
    items = view.ask("GET /nodes").body["items"]
    sees_all = view.who.queues is None
    records = {one.id: one for one in view.client.nodes.list()} if sees_all else {}
    programs = _programs(records.values())
    usual = programs.most_common(1)[0][0] if programs else None
    for one in items:
        record = records.get(one["_id"])
        if record is not None:
            one["facts"] = node_facts(record).to_json()
            one["state_words"] = _state(record)
            one["is_unusual"] = len(programs) > 1 and record.is_ours and one.get("version") != usual
    values = {
        "nodes": items, "sees_all": sees_all,
        "programs": _by_program(records.values()) if len(programs) > 1 else [],
    }  # fmt: skip
    return Html(template="nodes.html", title="Nodes", values=values)


def _programs(records: Iterable[NodeRecord]) -> Counter[Any]:
    """The versions of this program that living nodes have, and how many of them."""
    return Counter(one.document.get("version") for one in records if one.is_ours and readings.is_alive(one))


def _by_program(records: Iterable[NodeRecord]) -> list[tuple[str, str]]:
    nodes: dict[str, list[str]] = {}
    for one in records:
        if one.is_ours and readings.is_alive(one):
            nodes.setdefault(str(one.document.get("version")), []).append(one.id)
    return [(version, ", ".join(some)) for version, some in sorted(nodes.items(), reverse=True)]


def _state(record: NodeRecord) -> str:
    """`running`, `dead 4 min`."""
    facts = node_facts(record)
    if facts.state == "dead" and record.age_seconds is not None:
        return f"dead {span(record.age_seconds)}"
    return facts.state


def _show(view: View) -> Shown:
    node = view.ask("GET /nodes/{n}", n=view.path["n"]).body
    record = view.client.nodes.get(view.path["n"])
    sees_all = view.who.queues is None
    values: dict[str, Any] = {"node": node, "name": view.path["n"], "sees_all": sees_all}
    if sees_all:
        others = [one for one in view.client.nodes.list(is_alive=True) if one.id != record.id]
        programs = _programs([record, *others])
        values |= {
            "facts": node_facts(record).to_json(), "state_words": _state(record),
            "running": rows_of(node.get("running_tasks", ())), "plugins": _plugins(record, others),
            "troubles": [*readings.passed_over_of(record), *readings.troubles_of(record)],
            "served": readings.heartbeat_queues(record), "requests": record.requests,
            "away": readings.away_in_words(record) if readings.is_away(record) else "",
            "programs": _by_program([record, *others]) if record.is_ours and len(programs) > 1 else [],
        }  # fmt: skip
    return Html(template="node.html", title=f"{view.path['n']} (node)", values=values)


def _plugins(record: NodeRecord, others: Sequence[NodeRecord]) -> list[dict[str, Any]]:
    aside, broken = readings.set_aside_of(record), readings.broken_of(record)
    versions = readings.versions_of(record)
    elsewhere = [(one.id, readings.versions_of(one)) for one in others]
    found = []
    for name in sorted({*readings.classes_of(record), *aside, *broken}):
        version = versions.get(name, "")
        differing = [f"{other[name]} on {node}" for node, other in elsewhere
                     if version and name in other and other[name] != version]  # fmt: skip
        found.append({"class": name, "version": version, "aside": aside.get(name), "broken": broken.get(name),
                      "file": readings.broken_files_of(record).get(name), "differing": differing})  # fmt: skip
    return found


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

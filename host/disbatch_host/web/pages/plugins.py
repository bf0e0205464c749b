"""Plugins: what each takes, how it runs, and how it went lately."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from disbatch_host.client import Selection
from disbatch_host.web.pages.page import Html, Page, Shown, View
from disbatch_host.web.problems import Code, Problem
from disbatch_protocol.status import Status

_LOOKED_AT = 1000
_PAGE = 500
_SECONDS = 1.0


def _list(view: View) -> Shown:
    items = view.ask("GET /plugins").body["items"]
    return Html(template="plugins.html", title="Plugins", values={"plugins": items})


def _show(view: View) -> Shown:
    try:
        plugin = view.ask("GET /plugins/{class}", class_=view.path["class"]).body
    except Problem as error:
        return _absent(view, error)
    queues = [one for one in plugin["queues"] if view.who.sees(one)]
    values = {
        "plugin": {**plugin, "examples": [{**one, "curl": _curl(view, queues, one)} for one in plugin["examples"]]},
        "queues": queues, "readme": [*_readme(plugin.get("readme") or "")],
        "figures": _figures(view, plugin["class"]) if view.who.queues is None else None,
    }  # fmt: skip
    return Html(template="plugin.html", title=f"{plugin['class']} (plugin)", values=values)


def _absent(view: View, problem: Problem) -> Shown:
    """A class that a queue names and no node has published. Raises the problem for one that nobody names."""
    name = view.path["class"]
    items = view.ask("GET /plugins").body["items"]
    queues = [queue for one in items if one["class"] == name for queue in one["queues"] or () if view.who.sees(queue)]
    if problem.code is not Code.PLUGIN or not queues:
        raise problem
    return Html(template="plugin_absent.html", title=f"{name} (plugin)", values={"name": name, "queues": queues})


def _curl(view: View, queues: Sequence[str], example: Mapping[str, Any]) -> str:
    """The line of a shell that pushes an example; what is secret in it has to be put in."""
    if not queues:
        return ""
    body = shlex.quote(orjson.dumps({"parameters": example["parameters"]}).decode())
    address = view.url("api", "v1", "queues", queues[0], "tasks")
    headers = """-H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json'"""
    return f'curl {headers} -d {body} "$SERVER"{shlex.quote(address)}'


def _readme(text: str) -> Iterator[tuple[str, str]]:
    """A README as pieces: heading, code, text. Nothing else of Markdown is read: it is of somebody else."""
    kind, lines = "text", list[str]()
    for line in text.splitlines():
        is_fence = line.lstrip().startswith("```")
        if kind == "code":
            if is_fence:
                yield kind, "\n".join(lines)
                kind, lines = "text", []
            else:
                lines.append(line)
            continue
        is_heading = line.startswith("#") and line.lstrip("#").startswith(" ")
        if is_fence or is_heading or not line.strip():
            if lines:
                yield kind, "\n".join(lines)
            lines = []
            if is_heading:
                yield "heading", line.lstrip("#").strip()
            kind = "code" if is_fence else "text"
        else:
            lines.append(line)
    if lines:
        yield kind, "\n".join(lines)


def _figures(view: View, class_name: str) -> Mapping[str, Any] | None:
    """Of the newest runs that have ended."""
    seconds, concluded, total, cursor = list[float](), 0, 0, None
    which = Selection(class_name=class_name, status=("concluded", "failed"))
    while total < _LOOKED_AT:
        page = view.client.page(which, limit=_PAGE, cursor=cursor, budget_seconds=_SECONDS)
        for one in page.tasks:
            total += 1
            concluded += one.status == Status.CONCLUDED
            if isinstance(one.run.get("seconds"), (int, float)):
                seconds.append(float(one.run["seconds"]))
        cursor = page.next
        if cursor is None or page.is_cut:
            break
    if not total:
        return None
    ordered = sorted(seconds)
    return {
        "total": total, "concluded": concluded,
        "median": statistics.median(ordered) if ordered else None,
        "most": ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))] if ordered else None,
    }  # fmt: skip


PAGES = (
    Page(path="/plugins", does=_list),
    Page(path="/plugins/{class}", does=_show, about=Code.PLUGIN),
)

"""Failures by cause, and what can be done with a cause."""

from __future__ import annotations

from typing import Any

from disbatch_host.web.pages import filters
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.problems import Code

_SAMPLES = 3
ADDABLE = ("queue", "node", "class", "version", "batch", "since", "ended_since")


def _show(view: View) -> Shown:
    if name := view.get("add"):
        kept = [(key, one) for key, one in view.query if key not in ("add", "value")]
        return SeeOther(to=view.url("failures", query=[*kept, (name, view.get("value"))]))
    chosen = filters.filters_in(view.query)
    found = view.ask("GET /failures", query=filters.to_query(chosen)).body
    groups = [{**one, "to": _tasks(view, chosen, one), "all": _all(view, chosen, one)} for one in found["groups"]]
    chips = []
    for number, one in enumerate(chosen):
        others = [other for place, other in enumerate(chosen) if place != number]
        name, value = filters.words_of(one)
        chips.append({"name": name, "value": value, "without": view.url("failures", query=filters.to_pairs(others))})
    values = {
        "found": found, "groups": groups, "chips": chips, "addable": ADDABLE,
        "can_retry": view.can("operate"),
    }  # fmt: skip
    return Html(template="failures.html", title="Failures", values=values)


def _tasks(view: View, chosen: Any, group: dict[str, Any]) -> str:
    return view.url("tasks", query=[*filters.to_pairs(chosen), *_only(group)])


def _all(view: View, chosen: Any, group: dict[str, Any]) -> str:
    """The dry run of a retry of all of them."""
    return view.url("operations", "new", query=[("action", "retry"), *filters.to_pairs(chosen), *_only(group)])


def _only(group: dict[str, Any]) -> list[tuple[str, str]]:
    if group.get("key"):
        return [("failure", group["key"])]
    return [("error", group["code"]), ("status", "failed")]


PAGES = (Page(path="/failures", does=_show, about=Code.QUEUE),)

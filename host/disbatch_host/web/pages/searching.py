"""The search of the header: an id, a name, or a filter."""

from __future__ import annotations

import re

from disbatch_host.errors import DisbatchError
from disbatch_host.web.pages.page import Page, SeeOther, Shown, View
from disbatch_host.web.queries import FILTER

_ID = re.compile(r"[0-9a-fA-F]{6,24}|@last")
_PART = re.compile(r"([A-Za-z_][\w.:-]*)\s*[:=]\s*(.*)", re.DOTALL)


def _search(view: View) -> Shown:
    text = view.get("q").strip()
    if not text:
        return SeeOther(to=view.url("tasks"))
    if _ID.fullmatch(text) and (task := _task(view, text)) is not None:
        return SeeOther(to=view.url("tasks", task))
    if (named := _named(view, text)) is not None:
        return SeeOther(to=view.url(*named))
    return SeeOther(to=view.url("tasks", query=_filters(text)))


def _task(view: View, text: str) -> str | None:
    try:
        found = view.client.get(text)
    except DisbatchError:
        return None
    return str(found.id) if view.who.sees(str(found.queue)) else None


def _named(view: View, text: str) -> tuple[str, str] | None:
    store = view.client.store
    if store.find_queue(text) is not None and view.who.sees(text):
        return "queues", text
    if store.get_node(text) is not None:
        return "nodes", text
    if view.who.queues is None and store.get_batch(text) is not None:
        return "batches", text
    return ("plugins", text) if text in view.client.plugins.classes() and view.who.queues is None else None


def _filters(text: str) -> list[tuple[str, str]]:
    """`queue:mail status=failed user=ann`: other names are parameters, all else is looked for in errors."""
    found, rest = list[tuple[str, str]](), list[str]()
    for word in text.split():
        match = _PART.fullmatch(word)
        if match is None or not match[2]:
            rest.append(word)
        elif match[1] in FILTER:
            found.append((match[1], match[2]))
        else:
            found.append((f"p.{match[1]}", match[2]))
    return [*found, *([("grep", " ".join(rest))] if rest else [])]


PAGES = (Page(path="/search", does=_search),)

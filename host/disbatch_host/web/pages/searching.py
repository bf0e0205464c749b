"""The search of the header: an id, a name, or a filter."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from disbatch_host.client.finding import filter_of
from disbatch_host.documents.records import TaskId
from disbatch_host.errors import DisbatchError
from disbatch_host.web.pages.page import Page, SeeOther, Shown, View
from disbatch_host.web.pages.words import short_id
from disbatch_host.web.queries import FILTER, selection_of

_ID = re.compile(r"[0-9a-fA-F]{6,24}|@last")
_BEGINNING = re.compile(r"[0-9a-fA-F]{6,24}")
_SHORT = re.compile(r"(\w+)(?:…|\.{2,3})(\w+)")  # as lists show an id
_END = re.compile(r"[0-9a-fA-F]{6,24}")
_NEWEST = 20_000  # tasks that are looked at for the end of an id, as far as there is time
_PAGE = 500
_SECONDS = 1.0
_HITS = 20
_PART = re.compile(r"([A-Za-z_][\w.:-]*)\s*[:=]\s*(.*)", re.DOTALL)


def _search(view: View) -> Shown:
    text = view.get("q").strip()
    if not text:
        return SeeOther(to=view.url("tasks"))
    if _ID.fullmatch(text) and (task := _task(view, text)) is not None:
        return SeeOther(to=view.url("tasks", task))
    if (named := _named(view, text)) is not None:
        return SeeOther(to=view.url(*named))
    if ids := _of_piece(view, text):
        if len(ids) == 1:
            return SeeOther(to=view.url("tasks", ids[0]))
        return SeeOther(to=view.url("tasks", query=[("id", one) for one in ids]))
    return SeeOther(to=view.url("tasks", query=_filters(text)))


def _task(view: View, text: str) -> str | None:
    try:
        found = view.client.get(text)
    except DisbatchError:
        return None
    return str(found.id) if view.who.sees(str(found.queue)) else None


def _of_piece(view: View, text: str) -> list[str]:
    """The ids that begin like a text, or end like it, or are shown like it in lists: of the newest tasks."""
    if _BEGINNING.fullmatch(text) and (begun := view.client.store.ids_beginning(text.lower(), limit=_HITS)):
        return [str(one) for one in begun if view.who.queues is None or _task(view, str(one)) is not None]
    match = _SHORT.fullmatch(text)
    if match is None and not _END.fullmatch(text):
        return []
    head, tail = (match[1].lower(), match[2].lower()) if match is not None else ("", text.lower())
    found: list[str] = []
    for one in map(str, _newest(view)):
        shown = short_id(one).lower().partition("…")[0]
        if one.lower().endswith(tail) and (one.lower().startswith(head) or shown.startswith(head)):
            found.append(one)
            if len(found) == _HITS:
                break
    return found


def _newest(view: View) -> Iterator[TaskId]:
    store = view.client.store
    which = filter_of(store, selection_of({}, view.who), view.client.by)
    cursor, end = None, time.monotonic() + _SECONDS
    for _ in range(0, _NEWEST, _PAGE):
        left = end - time.monotonic()
        if left <= 0:
            return
        page = store.find_page(
            which, limit=_PAGE, newest_first=True, cursor=cursor, budget_seconds=left, with_parameters=False
        )
        yield from (one.id for one in page.tasks)
        cursor = page.next
        if cursor is None:
            return


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

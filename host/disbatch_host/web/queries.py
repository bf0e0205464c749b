"""The grammar of lists: which tasks (`F` in docs/api.md), which page of them (`P`), and how a page is answered.

Responsible for: the parameters of a query that several routes take, and what they mean. Must not know: HTTP, stores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import orjson

from disbatch_host.client import Selection
from disbatch_host.documents.conditions import Page
from disbatch_host.errors import FieldError
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.principal import Principal
from disbatch_host.web.problems import Code, Fault, Problem
from disbatch_host.web.route import Schema
from disbatch_protocol.document import rfc3339

LIMIT_MAX = 500
LIMIT = 50

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": {"type": "string"}}


def _text(words: str, **more: Any) -> Schema:
    return {**_TEXT, "description": words, **more}


FILTER: Mapping[str, Schema] = {
    "queue": _text("Tasks of this queue."),
    "status": {**_TEXTS, "description": "With one of these statuses: names, groups or numbers, also with commas."},
    "failed": {"type": "boolean", "description": "Tasks that failed: short for status=failed."},
    "node": _text("Claimed by this node, now or earlier."),
    "since": _text("Created at or after this time, or within this long (2h)."),
    "before": _text("Created before this time, or longer ago than this."),
    "ended_since": _text("Ended at or after this time, or within this long."),
    "ended_before": _text("Ended before this time, or longer ago than this."),
    "error": _text("With this error code."),
    "failure": _text("That failed for this cause: its key."),
    "class": _text("That this plugin ran."),
    "version": _text("That this version of their plugin ran."),
    "unique_key": _text("With this unique key."),
    "batch": _text("Of this batch: its id, or the beginning of it."),
    "after": _text("That wait for this task."),
    "parent": _text("That the run of this task created."),
    "id": {**_TEXTS, "description": "These tasks alone."},
    "where": {
        **_TEXTS,
        "description": "With this parameter or other field (user=matt, result.size!=0, size>=100); all hold.",
    },
    "grep": _text("With this text in the code or message of the error."),
}

PAGING: Mapping[str, Schema] = {
    "limit": {
        "type": "integer",
        "minimum": 1,
        "maximum": LIMIT_MAX,
        "default": LIMIT,
        "description": "At most so many.",
    },
    "cursor": _text("`next` or `previous` of another page of the same list."),
    "order": {"type": "string", "enum": ["newest", "oldest"], "default": "newest", "description": "By creation."},
}

_NAMES = {"class": "class_name", "id": "ids"}  # those that `Selection` calls otherwise


def selection_of(query: Mapping[str, Any], who: Principal) -> Selection:
    """The tasks that a query asks for, of those that this person may see. Raises Problem."""
    given = {_NAMES.get(name, name): query[name] for name in FILTER if name in query and name != "failed"}
    if not query.get("failed"):
        return _seen(Selection(**given), who)
    if "status" in query:
        raise Problem(Code.QUERY, "expected either failed or status, found both")
    return _seen(Selection(**given, status=("failed",)), who)


def _seen(selection: Selection, who: Principal) -> Selection:
    if who.queues is None:
        return selection
    if selection.queue is not None:
        who.require_queue(selection.queue)
        return selection
    return replace(selection, queues=tuple(sorted(who.queues)))


def wrong_value(error: FieldError) -> Problem:
    """A value in a query that cannot be what it should, under the name that the query has for it."""
    name = next((ours for ours, theirs in _NAMES.items() if theirs == error.field), error.field)
    code = Code.CURSOR if name == "cursor" else Code.QUERY
    return Problem(code, f"{name}: {error.reason}", faults=[Fault(pointer=name, message=error.reason)])


def cursor_of(call: Call) -> str | None:
    """The store's own, of the cursor that a query has. Raises Problem for that of another list."""
    given = call.query.get("cursor")
    if given is None:
        return None
    own, _, mark = given.rpartition(_MARKED)
    if not own or mark != _mark(call):
        raise wrong_cursor()
    return str(own)


def wrong_cursor() -> Problem:
    """A cursor of another list, or of none."""
    message = "expected `next` or `previous` of another page of the same list"
    return Problem(Code.CURSOR, f"cursor: {message}", faults=[Fault(pointer="cursor", message=message)])


def cursor_for(call: Call, own: str | None) -> str | None:
    """The cursor of another page of this list, from the store's own."""
    return None if own is None else f"{own}{_MARKED}{_mark(call)}"


_MARKED = "."
_MARK_DIGITS = 8


def _mark(call: Call) -> str:
    """What a list is of: its filter, its order, and the queues that are seen."""
    shape = ("cursor", "limit", "columns")
    query = {"order": "newest", **{name: call.query[name] for name in call.query if name not in shape}}
    queues = None if call.who.queues is None else sorted(call.who.queues)
    said = orjson.dumps([query, queues], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(said).hexdigest()[:_MARK_DIGITS]


def page_answer(call: Call, page: Page, items: Sequence[Mapping[str, Any]], *path: str, **more: Any) -> Answer:
    """One page of a list: its items, and where the ones before and after are."""
    following, before = cursor_for(call, page.next), cursor_for(call, page.previous)
    links = {name: cursor for name, cursor in (("next", following), ("prev", before)) if cursor is not None}
    looked_to = None if page.looked_to is None else rfc3339(page.looked_to)
    body = {
        "items": list(items),
        "next": following,
        "previous": before,
        **more,
        "looked_at": {"tasks": page.looked_at, "is_all": not page.is_cut, "to": looked_to},
    }
    return Answer(body=body, headers=link_header(call, links, *path), has_tag=True)


def link_header(call: Call, links: Mapping[str, str], *path: str) -> dict[str, str]:
    """RFC 8288: the other pages of this list."""
    if not links:
        return {}
    query = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in call.query.items()
        if name != "cursor"
    }
    found = [
        f'<{call.link(*path)}?{urlencode({**query, "cursor": cursor}, doseq=True)}>; rel="{name}"'
        for name, cursor in links.items()
    ]
    return {"Link": ", ".join(found)}

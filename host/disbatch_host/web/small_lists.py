"""Pages of lists that are short enough to be read as a whole: queues, batches, operations, imports.

Responsible for: where a page begins and ends, and the cursors of the pages around it. Must not know: what is listed.

Rules:
1. A cursor names an item and its side, not a place: the page stays good while others come and go, and that item, too.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from disbatch_host.web.call import Answer, Call
from disbatch_host.web.queries import LIMIT, cursor_for, cursor_of, link_header, wrong_cursor

ANSWER: Mapping[str, Any] = {"type": "object", "required": ["items", "next", "previous", "count"]}
_AFTER, _BEFORE = "after", "before"


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallPage:
    """Which of the keys are on the page that is asked for, and what is said of the others."""

    keys: Sequence[str]
    following: str | None
    before: str | None
    count: int

    def answer(self, call: Call, items: Sequence[Mapping[str, Any]], *path: str, seen: int | None = None) -> Answer:
        """`seen`: how many of all there are at least, for somebody who may not know of all."""
        cursors = (("next", self.following), ("prev", self.before))
        body = {
            "items": items,
            "next": self.following,
            "previous": self.before,
            "count": {"value": self.count if seen is None else seen, "is_exact": seen is None},
        }
        links = {name: cursor for name, cursor in cursors if cursor is not None}
        return Answer(body=body, headers=link_header(call, links, *path), has_tag=True)


def small_page(call: Call, keys: Sequence[str], *, order: str, is_descending: bool) -> SmallPage:
    """`keys`: of all items, in any order; each of another. `order`: what theirs is called, since a cursor is of one.
    Raises Problem."""
    ordered = sorted(keys, reverse=is_descending)
    limit, place = call.query.get("limit", LIMIT), _place_of(call, order)
    start, end = 0, min(limit, len(ordered))
    if place is not None:
        side, key = place
        if side == _BEFORE:
            end = sum(one > key if is_descending else one < key for one in ordered)
            start = max(0, end - limit)
        else:
            start = sum(one >= key if is_descending else one <= key for one in ordered)
            end = min(start + limit, len(ordered))
    return SmallPage(
        keys=ordered[start:end],
        following=_cursor(call, order, _AFTER, ordered[end - 1]) if 0 < end < len(ordered) else None,
        before=_cursor(call, order, _BEFORE, ordered[start]) if 0 < start < len(ordered) else None,
        count=len(ordered),
    )


def _cursor(call: Call, order: str, side: str, key: str) -> str | None:
    return cursor_for(call, base64.urlsafe_b64encode(orjson.dumps([order, side, key])).decode().rstrip("="))


def _place_of(call: Call, order: str) -> tuple[str, str] | None:
    """The side of which key the page is on. Raises Problem."""
    own = cursor_of(call)
    if own is None:
        return None
    try:
        of, side, key = orjson.loads(base64.urlsafe_b64decode(own + "=="))
    except (ValueError, TypeError):
        raise wrong_cursor() from None
    if of != order or side not in (_AFTER, _BEFORE) or not isinstance(key, str):
        raise wrong_cursor()
    return side, key

"""Why tasks failed, by cause."""

from __future__ import annotations

from typing import Any

from disbatch_host.client.failures import Failures
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.documents import plain
from disbatch_host.web.problems import Code
from disbatch_host.web.queries import FILTER, selection_of
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route

_GROUPS = 100


def failures_json(call: Call, found: Failures) -> dict[str, Any]:
    """The causes, each with the query that selects its tasks."""
    groups = []
    for one in found.reasons:
        filter_ = {"failure": one.key} if one.key is not None else {"error": one.code, "failed": "yes"}
        groups.append({**plain(call, one.to_json()), "filter": filter_})
    return {
        "seen": found.total + found.orphaned + found.expired,
        "is_all": found.is_complete,
        "groups": groups,
        "others": {"groups": found.other_groups, "count": found.other_total},
    }


def _list(call: Call) -> Answer:
    limit = call.query.get("limit", _GROUPS)
    found = call.client.failures(selection_of(call.query, call.who), limit=limit)
    return Answer(body=failures_json(call, found), has_tag=True)


_LIMIT = {
    "type": "integer",
    "minimum": 1,
    "maximum": 1000,
    "default": _GROUPS,
    "description": "Causes at most.",
}
ROUTES = (
    Route(
        method="GET", path="/failures", role=Role.READ, does=_list, words="Why tasks failed, the most frequent first.",
        query={**FILTER, "limit": _LIMIT}, about=Code.QUEUE,
        answers={200: {"type": "object", "required": ["seen", "is_all", "groups"]}},
    ),
)  # fmt: skip

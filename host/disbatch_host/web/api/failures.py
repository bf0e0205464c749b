"""Why tasks failed, by cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from disbatch_host.client.failures import BY, CAUSE, FailureFacts, Failures
from disbatch_host.documents.records import NOBODY
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.documents import plain
from disbatch_host.web.problems import Code, Fault, Problem
from disbatch_host.web.queries import FILTER, selection_of
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route

_GROUPS = 100


def failures_json(call: Call, found: Failures, by: Sequence[str] = (CAUSE,)) -> dict[str, Any]:
    """The groups, each with the query that selects its tasks."""
    groups = [{**plain(call, one.to_json()), "filter": _filter_of(one, by)} for one in found.reasons]
    return {
        "seen": found.total + found.orphaned + found.expired,
        "is_all": found.is_complete,
        "groups": groups,
        "others": {"groups": found.other_groups, "count": found.other_total},
    }


def _filter_of(one: FailureFacts, by: Sequence[str]) -> dict[str, Any]:
    if one.key is not None:
        found: dict[str, Any] = {"failure": one.key}
    else:
        found = {"status": "failed,orphaned"} if one.orphaned or CAUSE not in by else {"failed": "yes"}
        found |= {"error": one.code} if CAUSE in by else {}
    missing = [f".run.plugin.version!={version}" for version in one.versions_of_others]
    missing += [f".node={NOBODY}"] if one.only.get("node", "") is None else []
    found |= {name: value for name, value in one.only.items() if value is not None}
    return {**found, "where": missing} if missing else found


def by_of(text: str) -> tuple[str, ...]:
    """What groups are told apart by. Raises Problem."""
    names = tuple(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))
    if not names or not {*names} <= {*BY}:
        message = f"expected some of {', '.join(BY)}, found {text!r:.80}"
        raise Problem(Code.QUERY, f"by: {message}", faults=[Fault(pointer="by", message=message)])
    return tuple(one for one in BY if one in names)


def _list(call: Call) -> Answer:
    limit, by = call.query.get("limit", _GROUPS), by_of(call.query.get("by", CAUSE))
    found = call.client.failures(selection_of(call.query, call.who), limit=limit, by=by)
    return Answer(body=failures_json(call, found, by), has_tag=True)


_LIMIT = {
    "type": "integer",
    "minimum": 1,
    "maximum": 1000,
    "default": _GROUPS,
    "description": "Groups at most.",
}
_BY = {
    "type": "string",
    "default": CAUSE,
    "description": f"What groups are told apart by: some of {', '.join(BY)}, with commas.",
}
ROUTES = (
    Route(
        method="GET", path="/failures", role=Role.READ, does=_list, words="Why tasks failed, the most frequent first.",
        query={**FILTER, "limit": _LIMIT, "by": _BY}, about=Code.QUEUE,
        answers={200: {"type": "object", "required": ["seen", "is_all", "groups"]}},
    ),
)  # fmt: skip

"""Failures by cause, version, node and queue, when they were, and what can be done with a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from disbatch_host.client import finding
from disbatch_host.client.failures import BY, CAUSE
from disbatch_host.web.api.failures import by_of
from disbatch_host.web.pages import filters
from disbatch_host.web.pages.charts import Chart, chart
from disbatch_host.web.pages.filters import Filter
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.problems import Code
from disbatch_host.web.queries import selection_of

ADDABLE = ("queue", "node", "class", "version", "batch", "since", "ended_since", "ended_before")
WORDS = {CAUSE: "reason", "version": "plugin version", "node": "node", "queue": "queue"}
_HOURS = 24  # of the chart, where nobody says since when
_HOURS_MAX = 7 * 24
_CHART_SECONDS = 0.5
_HOUR = timedelta(hours=1)


def _show(view: View) -> Shown:
    if name := view.get("add"):
        kept = [(key, one) for key, one in view.query if key not in ("add", "value")]
        return SeeOther(to=view.url("failures", query=[*kept, (name, view.get("value"))]))
    chosen = filters.filters_in(view.query)
    by = by_of(view.get("by", CAUSE))
    found = view.ask("GET /failures", query={**filters.to_query(chosen), "by": ",".join(by)}).body
    groups = [{**one, **_links(view, chosen, one)} for one in found["groups"]]
    values = {
        "found": found, "groups": groups, "chips": _chips(view, chosen), "addable": ADDABLE, "by": by,
        "choices": _choices(view, by), "can_retry": view.can("operate"), "hours": _hours(view, chosen),
        "begin": _begin(view, chosen),
    }  # fmt: skip
    return Html(template="failures.html", title="Failures", values=values)


def _links(view: View, chosen: Sequence[Filter], group: Mapping[str, Any]) -> dict[str, str]:
    """The tasks of a group, and the question about a retry of all of them: its filter, and what that leaves of ours."""
    only = group["filter"]
    kept = [
        one for one in filters.to_pairs(chosen) if one[0] not in only and not (one[0] == "status" and "failed" in only)
    ]
    pairs = [("status", "failed") if name == "failed" else (name, each)
             for name, value in only.items() for each in (value if isinstance(value, list) else [value])]  # fmt: skip
    pairs += [("where", value) for name, value in filters.to_pairs(chosen) if name == "where" and "where" in only]
    return {
        "to": view.url("tasks", query=[*kept, *pairs]),
        "all": view.url("operations", "new", query=[("action", "retry"), *kept, *pairs]),
    }


def _chips(view: View, chosen: Sequence[Filter]) -> list[dict[str, str]]:
    kept = [(name, value) for name, value in view.query if name in ("by", "live")]
    chips = []
    for number, one in enumerate(chosen):
        others = [other for place, other in enumerate(chosen) if place != number]
        name, value = filters.words_of(one)
        without = view.url("failures", query=[*filters.to_pairs(others), *kept])
        chips.append({"name": name, "value": value, "without": without})
    return chips


def _choices(view: View, by: Sequence[str]) -> list[dict[str, Any]]:
    """What groups can be told apart by; one more or one less is a link, and one always stays."""
    kept = [(name, value) for name, value in view.query if name != "by"]
    found = []
    for one in BY:
        wanted = [name for name in BY if (name in by) != (name == one)] or [CAUSE]
        to = view.url("failures", query=[*kept, *([] if wanted == [CAUSE] else [("by", ",".join(wanted))])])
        found.append({"word": WORDS[one], "is_on": one in by, "to": to})
    return found


def _begin(view: View, chosen: Sequence[Filter]) -> datetime | None:
    """Since when failures are shown; None: nobody has said."""
    selection = selection_of(filters.to_query(chosen), view.who)
    which = finding.filter_of(view.client.store, selection, view.client.by)
    given = [one for one in (which.changed_since, which.created_since) if one is not None]
    return max(given) if given else None


def _hours(view: View, chosen: Sequence[Filter]) -> dict[str, Any] | None:
    """How many failed in each hour, the current one as the last."""
    begin = _begin(view, chosen)
    this = view.now.replace(minute=0, second=0, microsecond=0)
    count = _HOURS if begin is None else min(_HOURS_MAX, max(2, int((this - begin) / _HOUR) + 2))
    first = this - (count - 1) * _HOUR
    query = {**filters.to_query(chosen), "ended_since": first.isoformat()}
    found = view.client.failures_by_hour(selection_of(query, view.who), seconds=_CHART_SECONDS)
    values = [found.counts.get(first + number * _HOUR, 0) for number in range(count)]
    drawn: Chart | None = chart(values) if any(values) else None
    if drawn is None:
        return None
    return {
        "chart": drawn,
        "first": first,
        "most_at": first + drawn.most_at * _HOUR,
        "count": count,
        "is_all": found.is_complete,
    }


PAGES = (Page(path="/failures", does=_show, about=Code.QUEUE),)

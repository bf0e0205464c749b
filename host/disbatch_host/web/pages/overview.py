"""Overview: is anything wrong, and how fast does it go?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from disbatch_host.web.api.queues import all_queues
from disbatch_host.web.pages.charts import Chart, chart, per_minute
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.pages.words import number, span
from disbatch_host.web.principal import Principal
from disbatch_host.web.recent import STEP_SECONDS, Lately
from disbatch_host.web.shared import Shared

_REASONS = 6
_WORDS = ("waiting", "running", "concluded", "failed", "orphaned")
_RUNNING = 8


async def _look(shared: Shared, who: Principal) -> Mapping[str, Any]:
    """What one look for all viewers has found some seconds ago."""
    return await shared.looker.page(who)


def _show(view: View) -> Shown:
    seen: Mapping[str, Any] = view.seen
    queues = seen["queues"]
    sees_all = view.who.queues is None
    rates = [one["per_second"] for one in queues if one["per_second"] is not None]
    values = {
        "queues": queues,
        "totals": {word: sum(one[word] for one in queues) for word in _WORDS},
        "needs": _needs(queues, seen["nodes"] if sees_all else ()),
        "reasons": seen["failures"][:_REASONS],
        "reasons_of": seen["failures_seen"],
        "nodes": seen["nodes"],
        "sees_all": sees_all,
        "running": seen["running"][:_RUNNING],
        "batches": seen["batches"],
        "charts": _charts(seen["lately"]),
        "rates": rates_of(queues, seen["lately"]),
        "per_second": sum(rates) if rates else None,
        "age_seconds": seen["age_seconds"],
        "trouble": seen["trouble"],
        "seen_at": view.now - timedelta(seconds=seen["age_seconds"]) if seen["trouble"] else None,
    }
    return Html(template="overview.html", title="Overview", values=values)


def _needs(queues: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What somebody has to do something about: whose, in words, and where more is said."""
    found: list[dict[str, Any]] = []
    for one in queues:
        name = one["queue"]
        if one["note"] and one["waiting"] and "paused" not in one["reasons"]:
            words = f"{one['note']}; {number(one['waiting'])} wait"
            found.append({"name": name, "words": words, "to": ("queues", name)})
        if one["orphaned"]:
            words = f"{number(one['orphaned'])} orphaned: nobody knows whether they have failed"
            found.append(
                {"name": name, "words": words, "to": ("tasks",), "query": {"queue": name, "status": "orphaned"}}
            )
    dead = [one for one in nodes if one["state"] == "dead" and one["running"]]
    return [*found, *({"name": one["node"], "words": "is dead", "to": ("nodes", one["node"])} for one in dead)]


def rates_of(queues: Sequence[Mapping[str, Any]], lately: Lately) -> dict[str, float]:
    """Tasks that ended per minute, by queue: the last value of its chart, or what a node says before there is one."""
    if len(lately.ended) < 2:
        return {one["queue"]: round(60 * (one["per_second"] or 0)) for one in queues}
    last = {name: per_minute(one[-1:], STEP_SECONDS)[0] for name, one in lately.by_queue.items()}
    return {one["queue"]: round(last.get(one["queue"], 0.0), 1) for one in queues}


def _charts(lately: Lately) -> dict[str, Any]:
    """Of what the looks for all viewers remember."""
    when = f"the last {span(max(60.0, lately.seconds))}"
    begin = f"{span(lately.seconds)} ago"
    sparks = {name: chart(per_minute(one, STEP_SECONDS)) for name, one in lately.by_queue.items() if any(one)}
    charts: dict[str, Chart | None] = {
        "ended": chart(per_minute(lately.ended, STEP_SECONDS), begin=begin, end="now"),
        "failed": chart(per_minute(lately.failed, STEP_SECONDS), begin=begin, end="now"),
    }
    return {**charts, "sparks": sparks, "when": when, "failed_in_all": lately.failed_in_all}


def _keys(_: View) -> Shown:
    return Html(template="keys.html", title="Keys")


def _push(view: View) -> Shown:
    """Which queue to push to."""
    queues = [one for one in all_queues(view.call) if "fault" not in one]
    if len(queues) == 1:
        return SeeOther(to=view.url("queues", queues[0]["_id"], "push"))
    return Html(template="push_where.html", title="Push", values={"queues": queues})


PAGES = (
    Page(path="/", does=_show, looks=_look),
    Page(path="/keys", does=_keys),
    Page(path="/push", does=_push),
)

"""Overview: is anything wrong, and how fast does it go?"""

from __future__ import annotations

from typing import Any

from disbatch_host.client.batch_progress import progress_of
from disbatch_host.client.failures import FailureFacts
from disbatch_host.client.overview import NodeFacts, Overview, QueueFacts
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View

_REASONS = 6
_RUNNING = 8
_BATCHES = 5
_LOOK_SECONDS = 0.05  # at the tasks of one batch, for its rate


def _show(view: View) -> Shown:
    found = view.client.overview()
    queues = [one for one in found.queues if view.who.sees(one.name)]
    sees_all = view.who.queues is None
    values = {
        "queues": queues,
        "totals": _totals(queues),
        "needs": _needs(queues, found.nodes if sees_all else ()),
        "reasons": _reasons(view, found)[:_REASONS],
        "nodes": found.nodes,
        "sees_all": sees_all,
        "running": [one for one in found.running if view.who.sees(one.queue)][:_RUNNING],
        "batches": _batches(view) if sees_all else [],
        "per_second": found.per_second,
    }
    return Html(template="overview.html", title="Overview", values=values)


def _totals(queues: list[QueueFacts]) -> dict[str, int]:
    return {
        "waiting": sum(one.waiting for one in queues),
        "running": sum(one.running for one in queues),
        "concluded": sum(one.concluded for one in queues),
        "failed": sum(one.failed for one in queues),
        "orphaned": sum(one.orphaned for one in queues),
    }


def _needs(queues: list[QueueFacts], nodes: Any) -> list[dict[str, Any]]:
    """What somebody has to do something about: whose, in words, and where more is said."""
    found: list[dict[str, Any]] = []
    for one in queues:
        if one.notes and one.waiting and "paused" not in map(str, one.codes):
            found.append({"name": one.name, "words": "; ".join(one.notes), "to": ("queues", one.name)})
        if one.orphaned:
            words = f"{one.orphaned} {'task is' if one.orphaned == 1 else 'tasks are'} orphaned"
            query = {"queue": one.name, "status": "orphaned"}
            found.append({"name": one.name, "words": words, "to": ("tasks",), "query": query})
    dead: list[NodeFacts] = [one for one in nodes if one.state == "dead"]
    found += [{"name": one.name, "words": "is dead", "to": ("nodes", one.name)} for one in dead if one.running]
    return found


def _reasons(view: View, found: Overview) -> list[FailureFacts]:
    return [one for one in found.failures if any(map(view.who.sees, one.queues))]


def _batches(view: View) -> list[dict[str, Any]]:
    under_way = view.client.batches.list(states=("open", "closed"), limit=_BATCHES)
    return [
        {**progress_of(view.client.store, one, look_seconds=_LOOK_SECONDS).to_json(), "id": one.id, "state": one.state}
        for one in under_way
    ]


def _keys(_: View) -> Shown:
    return Html(template="keys.html", title="Keys")


def _push(view: View) -> Shown:
    """Which queue to push to."""
    queues = [one for one in view.ask("GET /queues").body["items"] if "fault" not in one]
    if len(queues) == 1:
        return SeeOther(to=view.url("queues", queues[0]["_id"], "push"))
    return Html(template="push_where.html", title="Push", values={"queues": queues})


PAGES = (
    Page(path="/", does=_show),
    Page(path="/keys", does=_keys),
    Page(path="/push", does=_push),
)

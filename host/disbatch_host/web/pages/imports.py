"""Imports: the list of all, and one as it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from disbatch_host.web import plans
from disbatch_host.web.pages.import_check import fault_row
from disbatch_host.web.pages.import_steps import STEPS
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.pages.words import moment
from disbatch_host.web.problems import Code
from disbatch_host.web.role import Role

_LIMIT = 50


def _list(view: View) -> Shown:
    cursor = view.get("cursor")
    found = view.ask("GET /imports", query={"limit": _LIMIT, **({"cursor": cursor} if cursor else {})}).body
    waiting = _waiting(view) if view.can("operate") else []
    imports = [{**_shown(one), "has_batch": _batch(view, one["batch"])} for one in found["items"]]
    values = {"imports": imports, "next": found["next"], "previous": found["previous"], "waiting": waiting}
    return Html(template="imports.html", title="Imports", values=values)


def _waiting(view: View) -> list[dict[str, Any]]:
    """The files of this person that are sent and not imported."""
    files = view.call.spool
    if files is None:
        return []
    found = []
    for one in plans.waiting(files, view.client, view.who.by):
        queue = plans.queue_of(files, one.id)
        plan = None if queue is None else plans.find(files, one.id, queue)
        if queue is not None and view.who.sees(queue):
            found.append({
                "id": one.id, "name": one.name, "bytes": one.size, "queue": queue,
                "at": datetime.fromtimestamp(one.at, UTC),
                "step": "check" if plan is not None and plan.is_decided else "file",
            })  # fmt: skip
    return found


def _shown(one: Mapping[str, Any]) -> dict[str, Any]:
    """With what a page says about it: whether it waits for its turn, how long it took, how much is left."""
    begun, ended = moment(one["begun"]), moment(one["ended"])
    total = max(one["total"] or 0, one["rows"])
    rate = one["per_second"] if one["state"] == "running" else None
    return {
        **one,
        "word": "waiting" if one["state"] == "running" and one["step"] is None else one["state"],
        "total": total,
        "seconds": None if begun is None or ended is None else (ended - begun).total_seconds(),
        "rate": rate,
        "left_seconds": (total - one["rows"]) / rate if rate and total else None,
    }


def _show(view: View) -> Shown:
    found = _shown(view.ask("GET /imports/{i}", i=view.path["i"]).body)
    values = {
        "one": found, "faults": [*map(fault_row, found["first_faults"])],
        "steps": [(name, word, "") for name, word in STEPS],
        "batch": _batch(view, found["batch"]),
    }  # fmt: skip
    return Html(template="import.html", title=f"{found['file']} (import)", values=values)


def _batch(view: View, batch_id: str) -> bool:
    """Whether there is one to go to: it is made with the first task, and may be deleted later."""
    return view.client.store.get_batch(batch_id) is not None and view.who.queues is None


def _stop(view: View) -> Shown:
    view.ask("POST /imports/{i}/stop", i=view.path["i"])
    return SeeOther(to=view.url("imports", view.path["i"]))


PAGES = (
    Page(path="/imports", does=_list, about=Code.IMPORT),
    Page(path="/imports/{i}", does=_show, about=Code.IMPORT),
    Page(path="/imports/{i}/stop", does=_stop, method="POST", role=Role.OPERATE, about=Code.IMPORT),
)

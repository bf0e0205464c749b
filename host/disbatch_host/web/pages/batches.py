"""Batches: the newest, and one with its progress, its causes of failure, and what is done with it."""

from __future__ import annotations

from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role

STATES = ("open", "closed", "done")
_LIMIT = 50


def _list(view: View) -> Shown:
    state = view.get("state")
    if state and state not in STATES:
        raise Problem(Code.QUERY, f"state: expected one of {', '.join(STATES)}, found {state!r:.40}")
    items = view.ask("GET /batches", query={"limit": _LIMIT, **({"state": [state]} if state else {})}).body["items"]
    return Html(template="batches.html", title="Batches", values={"batches": items, "states": STATES, "state": state})


def _show(view: View) -> Shown:
    batch = view.ask("GET /batches/{b}", b=view.path["b"]).body
    if batch["_id"] != view.path["b"]:
        return SeeOther(to=view.url("batches", batch["_id"]))
    counts = batch["progress"]
    words = ("concluded", "failed", "terminated", "cancelled", "orphaned", "running", "waiting")
    rows = [{"word": one, "count": _own(counts, one)} for one in words if _own(counts, one)]
    values = {"batch": batch, "rows": rows}
    return Html(template="batch.html", title=f"{batch['_id']} (batch)", values=values)


def _own(counts: dict[str, int], word: str) -> int:
    """Terminated tasks count as failed as well; here each counts once."""
    return counts[word] - counts["terminated"] if word == "failed" else counts[word]


def _close(view: View) -> Shown:
    view.ask("POST /batches/{b}/close", b=view.path["b"])
    return SeeOther(to=view.url("batches", view.path["b"]))


def _delete(view: View) -> Shown:
    """With all of its tasks, as an operation."""
    if view.given("name").strip() != view.path["b"]:
        raise Problem(Code.BODY, f"type the name of the batch, {view.path['b']!r}, to delete it")
    answer = view.ask("DELETE /batches/{b}", b=view.path["b"])
    return SeeOther(to=view.url("operations", answer.body["id"]))


PAGES = (
    Page(path="/batches", does=_list),
    Page(path="/batches/{b}", does=_show, about=Code.BATCH),
    Page(path="/batches/{b}/close", does=_close, method="POST", role=Role.OPERATE, about=Code.BATCH),
    Page(path="/batches/{b}/delete", does=_delete, method="POST", role=Role.ADMIN, about=Code.BATCH),
)

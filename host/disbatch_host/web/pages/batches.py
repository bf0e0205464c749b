"""Batches: the newest, and one with its progress, its causes, its story, and what is done with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from disbatch_host.client import columns
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.pages.words import batch_state, number
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role
from disbatch_protocol.masks import MASK

STATES = ("open", "closed", "done")
_LIMIT = 50
_OPERATIONS = 50  # the newest, among which those of a batch are looked for
_SAMPLE = 20  # tasks that tell which columns a table can have
_COLUMNS_MAX = 30
_PAST = {"retry": "retried", "cancel": "cancelled", "delete": "deleted", "release": "released"}


def _list(view: View) -> Shown:
    state, cursor = view.get("state"), view.get("cursor")
    if state and state not in STATES:
        raise Problem(Code.QUERY, f"state: expected one of {', '.join(STATES)}, found {state!r:.40}")
    query = {"limit": _LIMIT, **({"state": [state]} if state else {}), **({"cursor": cursor} if cursor else {})}
    found = view.ask("GET /batches", query=query).body
    values = {
        "batches": found["items"], "next": found["next"], "previous": found["previous"],
        "states": STATES, "state": state, "state_of": batch_state,
    }  # fmt: skip
    return Html(template="batches.html", title="Batches", values=values)


def _show(view: View) -> Shown:
    batch = view.ask("GET /batches/{b}", b=view.path["b"]).body
    if batch["_id"] != view.path["b"]:
        return SeeOther(to=view.url("batches", batch["_id"]))
    counts = batch["progress"]
    words = ("concluded", "failed", "terminated", "cancelled", "orphaned", "running", "waiting")
    rows = [{"word": one, "count": _own(counts, one)} for one in words if _own(counts, one)]
    values = {
        "batch": batch, "rows": rows, "state": batch_state(batch["state"], counts),
        "story": sorted(_story(view, batch), key=lambda one: str(one["at"])),
        "columns": _columns(view, batch["_id"]), "causes_of": sum(one["count"] for one in batch["causes"]),
    }  # fmt: skip
    return Html(template="batch.html", title=f"{batch['_id']} (batch)", values=values)


def _own(counts: dict[str, int], word: str) -> int:
    """Terminated tasks count as failed as well; here each counts once."""
    return counts[word] - counts["terminated"] if word == "failed" else counts[word]


def _story(view: View, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What has happened to it: when, and what."""
    source = batch.get("source") or {}
    kinds = {"import": " with an import of ", "collection": " from the collection "}
    named = f"{kinds[source['kind']]}{source.get('name')}" if source.get("kind") in kinds else ""
    skipped = f"; {number(source['skipped'])} of its rows did not fit" if source.get("skipped") else ""
    yield {"at": batch.get("ctime"), "words": f"created{_by(batch)}{named}{skipped}"}
    if closed := batch.get("closed"):
        yield {"at": closed.get("at"), "words": f"closed{_by(closed)}: no more tasks are added"}
    if stopped := batch.get("stopped"):
        rest = f", {number(stopped['cancelled'])} that waited were cancelled" if stopped.get("cancelled") else ""
        yield {"at": stopped.get("at"), "words": f"stopped itself after {stopped.get('failed')} failures{rest}"}
    for one in view.ask("GET /operations", query={"limit": _OPERATIONS}).body["items"]:
        if one["filter"].get("batch") == batch["_id"] and one["action"] in _PAST:
            yield {"at": one["created"], "words": _in_words(one), "operation": one["id"]}
    if batch.get("done"):
        pushed = (batch.get("on_done") or {}).get("task")
        then = {"task": pushed, "queue": batch["on_done"]["queue"]} if pushed else {}
        yield {"at": batch["done"], "words": "done: all of its tasks have ended", **then}


def _by(document: Mapping[str, Any]) -> str:
    return f" by {document['by']}" if document.get("by") else ""


def _in_words(operation: Mapping[str, Any]) -> str:
    outcomes = operation["outcomes"] or {}
    came = ", ".join(f"{number(count)} {word.replace('_', ' ')}" for word, count in outcomes.items() if count)
    which = " of one cause" if operation["filter"].get("failure") else ""
    why = f" ({operation['reason']})" if operation.get("reason") else ""
    done = f"{operation.get('by') or 'somebody'} {_PAST[operation['action']]} tasks{which}{why}"
    return f"{done}: {came}" if came else done


def _columns(view: View, batch_id: str) -> list[dict[str, Any]]:
    """Those that a table of it can have, as far as some of its tasks tell; those that most people want are chosen."""
    items = view.ask("GET /tasks", query={"batch": batch_id, "limit": _SAMPLE}).body["items"]
    found: dict[str, bool] = {"task": True, "queue": len({one.get("queue") for one in items}) > 1, "status": True}
    telling = columns.telling_names(items, None)
    for name in _names(items, "parameters"):
        found[f"parameters.{columns.path_text([name])}"] = name in telling
    found |= {"error": True, "message": True}
    found |= {f"result.{columns.path_text([name])}": True for name in _names(items, "result")}
    found |= {"attempt": False, "node": False, "started": False, "ended": True, "ran": False}
    words = {name: name.removeprefix("parameters.") for name in found}
    return [{"name": one, "word": words[one], "is_chosen": chosen} for one, chosen in found.items()][:_COLUMNS_MAX]


def _names(items: Any, field: str) -> list[str]:
    names: dict[str, None] = {}
    for one in items:
        if isinstance(one.get(field), Mapping):
            names |= {name: None for name, value in one[field].items() if isinstance(name, str) and value != MASK}
    return list(names)


def _close(view: View) -> Shown:
    view.ask("POST /batches/{b}/close", b=view.path["b"])
    return SeeOther(to=view.url("batches", view.path["b"]))


def _retry(view: View) -> Shown:
    """Its failed tasks again, and what `on_done` creates once more when all have ended."""
    body = {"again": True, **({"reason": view.given("reason")} if view.given("reason") else {})}
    answer = view.ask("POST /batches/{b}/retry", body=body, b=view.path["b"])
    return SeeOther(to=view.url("operations", answer.body["id"]))


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
    Page(path="/batches/{b}/retry", does=_retry, method="POST", role=Role.OPERATE, about=Code.BATCH),
    Page(path="/batches/{b}/delete", does=_delete, method="POST", role=Role.ADMIN, about=Code.BATCH),
)

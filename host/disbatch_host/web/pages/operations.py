"""Operations: what would become of all tasks that fit, and how far one has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from disbatch_host.web.pages import filters
from disbatch_host.web.pages.filters import Filter
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View, last, number_in
from disbatch_host.web.pages.tasks import rows_of
from disbatch_host.web.pages.words import number
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role

ACTIONS = ("retry", "cancel", "release", "delete")
_TYPED_FROM = 1000  # tasks; above, and for all that are deleted, the number has to be typed
_LIMIT = 50
_IDS_MAX = 20  # in the address of a list
_NOW = ("waiting", "running", "concluded", "failed", "cancelled", "orphaned")
# Why a task would be left alone, in words that follow "12: ".
_OTHERS = {
    "not_ended": "they have not ended", "ended": "they have ended", "not_blocked": "they are not blocked",
    "unique_key": "another task has their unique key", "awaited": "other tasks wait for their end",
    "in_batch": "their batch is not done",
    "not_named": "they did not fail; a filter by their status has them run again",
    "changed_before": "they have changed since",
}  # fmt: skip


def _new(view: View) -> Shown:
    """The dry run."""
    action = view.get("action")
    return _tried(view, action, filters.filters_in(view.query), reason=view.get("reason"))


def _of(chosen: Sequence[Filter]) -> dict[str, Any]:
    """The tasks, as the API takes them: some by their ids, or all that fit."""
    ids = [one.value for one in chosen if one.name == "id"]
    return {"ids": ids} if ids and len(ids) == len(chosen) else {"filter": filters.to_query(chosen)}


def _tried(
    view: View, action: str, chosen: Sequence[Filter], *, reason: str = "", problem: Problem | None = None
) -> Html:  # fmt: skip
    if action not in ACTIONS:
        raise Problem(Code.QUERY, f"action: expected one of {', '.join(ACTIONS)}, found {action!r:.40}")
    found = view.ask("POST /operations", body={"action": action, **_of(chosen), "dry_run": True}).body
    values = {
        "action": action, "found": found, "pairs": filters.to_pairs(chosen), "reason": reason, "problem": problem,
        "words": [filters.words_among(one, found["samples"]) for one in chosen if one.name != "id"],
        "samples": rows_of(found["samples"]),
        "others": [(count, _OTHERS.get(word, word.replace("_", " "))) for word, count in found["others"].items()],
        "is_typed": action == "delete" or found["eligible"] > _TYPED_FROM,
        "back": _back(view, chosen), "concluded": _concluded(found, chosen) if action == "retry" else 0,
    }  # fmt: skip
    status = 200 if problem is None else int(problem.code.status)
    return Html(
        template="operation_new.html", title=f"{action.capitalize()} {found['eligible']} tasks?", values=values,
        status=status,
    )  # fmt: skip


def _concluded(found: Mapping[str, Any], chosen: Sequence[Filter]) -> int:
    """How many of those that would run again have done their work already."""
    named = any(one.name in ("id", "status") for one in chosen)
    return found["by_status"].get("concluded", 0) if named else 0


def _back(view: View, chosen: Sequence[Filter]) -> str:
    """The list that the question comes from."""
    there = view.get("back") or view.given("back")
    ours = view.url("tasks"), view.url("failures"), view.url("batches")
    return there if there.startswith(ours) else view.url("tasks", query=filters.to_pairs(chosen))


def _begin(view: View) -> Shown:
    action, reason, expect = view.given("action"), view.given("reason").strip(), view.given("expect")
    chosen = filters.filters_in(view.form)
    typed = last(view.form, "typed", expect).strip().replace(",", "")
    body: dict[str, Any] = {"action": action, **_of(chosen), "until": view.given("until")}
    try:
        if typed != expect or (number := number_in(expect)) is None:
            raise Problem(Code.BODY, f"type the number {expect} to go on, found {typed!r:.40}")
        if reason:
            body["reason"] = reason
        answer = view.ask("POST /operations", body={**body, "expect": number})
    except Problem as error:
        if error.code is Code.ROLE:
            raise
        return _tried(view, action, chosen, reason=reason, problem=error)
    return SeeOther(to=view.url("operations", answer.body["id"]))


def _list(view: View) -> Shown:
    cursor = view.get("cursor")
    found = view.ask("GET /operations", query={"limit": _LIMIT, **({"cursor": cursor} if cursor else {})}).body
    return Html(template="operations.html", title="Operations", values={"found": found})


def _show(view: View) -> Shown:
    found = view.ask("GET /operations/{o}", o=view.path["o"]).body
    tasks = None if found["action"] in ("delete", "close") else _tasks_of(found)
    values = {
        "operation": found, "pairs": _pairs(found["filter"]), "outcomes": found["outcomes"] or {},
        "tasks": None if tasks is None else view.url("tasks", query=_pairs(tasks)),
        "since": _since(view, found, tasks) if found["action"] == "retry" and tasks is not None else None,
    }  # fmt: skip
    return Html(template="operation.html", title=f"{found['action'].capitalize()} (operation)", values=values)


def _tasks_of(operation: Mapping[str, Any]) -> dict[str, Any]:
    """The filter that finds its tasks as they are now. What it found them by, such as a cause, they may have lost."""
    given = operation["filter"]
    ids = given.get("id") or []
    found: dict[str, Any] = {name: given[name] for name in ("queue", "batch") if given.get(name)}
    if ids and len(ids) <= _IDS_MAX:
        found["id"] = list(ids)
    if operation["action"] == "retry":
        found["ended_since"] = operation["until"]  # since when they have changed
        if operation.get("by"):
            found["where"] = [f".retried.by={operation['by']}"]
    return found


def _since(view: View, operation: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, Any] | None:
    """What has become of the tasks that it put back to wait, as they are now; None: there are none."""
    put_back = (operation["outcomes"] or {}).get("retried", 0)
    if not put_back:
        return None
    counts, links, is_exact = {}, {}, True
    for word in _NOW:
        counted = view.ask("GET /tasks/count", query={**tasks, "status": [word]}).body
        links[word] = view.url("tasks", query=[("status", word), *_pairs(tasks)])
        counts[word], is_exact = counted["value"], is_exact and counted["is_exact"]
    unfinished = counts["waiting"] + counts["running"]
    if unfinished:
        state = "running", "under way"
    elif counts["concluded"] == put_back:
        state = "concluded", "done, all concluded"
    else:
        known = [f"{number(counts[word])} {word}" for word in _NOW if counts[word]]
        state = "failed" if counts["failed"] else "cancelled", ", ".join(["done", *known])
    ended = min(put_back, sum(counts.values()) - unfinished)
    return {
        "put_back": put_back, "counts": counts, "is_exact": is_exact, "unfinished": unfinished, "ended": ended,
        "state": state, "links": links,
    }  # fmt: skip


def _pairs(chosen: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The filter as the address of a list has it."""
    return [
        (name, str(one))
        for name, value in chosen.items()
        for one in (value if isinstance(value, list) else [value])
        if one not in (None, "")
    ]


def _stop(view: View) -> Shown:
    view.ask("POST /operations/{o}/stop", o=view.path["o"])
    return SeeOther(to=view.url("operations", view.path["o"]))


PAGES = (
    Page(path="/operations", does=_list, about=Code.OPERATION),
    Page(path="/operations", does=_begin, method="POST", role=Role.OPERATE, about=Code.QUEUE),
    Page(path="/operations/new", does=_new, role=Role.OPERATE, about=Code.QUEUE),
    Page(path="/operations/{o}", does=_show, about=Code.OPERATION),
    Page(path="/operations/{o}/stop", does=_stop, method="POST", role=Role.OPERATE, about=Code.OPERATION),
)

"""Tasks: a list by filters, with columns of their parameters, and what is done with some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from disbatch_host.client import columns as all_columns
from disbatch_host.documents.records import Task
from disbatch_host.errors import NotFoundError
from disbatch_host.web.pages import filters
from disbatch_host.web.pages.filters import Filter
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View, values
from disbatch_host.web.problems import Code, Problem, in_place
from disbatch_host.web.role import Role
from disbatch_protocol import status as statuses
from disbatch_protocol.masks import MASK
from disbatch_protocol.status import Status

_LIMIT = 50
_IDS_MAX = 200  # in one address
_COLUMNS_MAX = 12
_OFFERED_MAX = 50  # columns
_FITS = "fits."  # before the name of a filter, in the form about the tasks that were selected
_FORM = frozenset({"add", "value", "word", "not", "cursor", "parameter"})  # fields of the one for a new filter
_ACTIONS = ("retry", "cancel", "release", "delete")
_ENDED = frozenset({"concluded", "failed", "terminated", "cancelled", "orphaned"})


def _show(view: View) -> Shown:
    if (added := _added(view)) is not None:
        return added
    try:
        filters.require_known(view.query)
        return _found(view)
    except Problem as error:
        if error.code not in (Code.QUERY, Code.CURSOR, Code.QUEUE):
            raise
        return _refused(view, error)


def _refused(view: View, problem: Problem) -> Shown:
    """The list without tasks: what is wrong, what was probably meant, and the form with the filter that is wrong."""
    wrong = filters.wrong_in(view.query, problem)
    chosen = [*filters.filters_in(view.query), *filters.unknown_in(view.query)]
    queues = [str(one.id) for one in view.client.store.queues() if view.who.sees(str(one.id))]
    meant = None if wrong is None else filters.meant_by(wrong, problem, queues)
    others = [one for one in chosen if one != wrong]
    values_ = {
        "answer": None, "chips": _chips(view, chosen), "addable": filters.ADDABLE, "words": statuses.names(),
        "problem": in_place(problem), "wrong": wrong, "rows": [],
        "meant": None if meant is None else (" ".join(filters.words_of(meant)), _address(view, [*others, meant])),
    }  # fmt: skip
    return Html(template="tasks.html", title="Tasks", values=values_, status=int(problem.code.status))


def _found(view: View) -> Shown:
    chosen = filters.filters_in(view.query)
    query = filters.to_query(chosen)
    paging = {name: view.get(name) for name in ("cursor", "order") if view.get(name)}
    answer = view.ask("GET /tasks", query={**query, **paging, "limit": _LIMIT}).body
    plugin = _plugin(view, query, answer["items"])
    names = _column_names(view, answer["items"], plugin)
    rows = rows_of(answer["items"], names)
    values_ = {
        "rows": rows, "columns": _columns(names, rows), "offered": _offered(answer["items"], names, plugin),
        "answer": answer, "plugin": plugin.name if plugin else "", "alone": _alone(view, names),
        "chips": _chips(view, chosen, answer["items"]), "addable": filters.ADDABLE, "filters": filters.to_pairs(chosen),
        "files": _files(view, query, names), "words": statuses.names(), "state": view.get("status"),
        "actions": _fitting(view, rows), "whole": _whole_actions(view, query, rows),
        "without": _without(view, chosen) if not rows and not paging else [],
    }  # fmt: skip
    title = "Tasks" if not chosen else f"Tasks: {', '.join(' '.join(filters.words_of(one)) for one in chosen)}"
    return Html(template="tasks.html", title=title[:200], values=values_)


def _added(view: View) -> Shown | None:
    """The form of a new filter gives its name and value apart: the address has them as one."""
    name, value = view.get("add"), view.get("value").strip()
    if not name:
        return None
    if name == "status":
        value = value or view.get("word")
    kept = [(key, one) for key, one in view.query if key not in _FORM]
    name = f"p.{view.get('parameter').strip()}" if name == "p." else name
    if value and name != "p.":
        kept.append((name, f"!{value}" if view.get("not") else value))
    return SeeOther(to=view.url("tasks", query=kept))


def _chips(view: View, chosen: Sequence[Filter], items: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, str]]:
    found = []
    for number, one in enumerate(chosen):
        name, value = filters.words_among(one, items)
        others = [other for place, other in enumerate(chosen) if place != number]
        found.append({"name": name, "value": value, "without": _address(view, others)})
    return found


def _address(view: View, chosen: Sequence[Filter]) -> str:
    kept = [(name, value) for name, value in view.query if name in ("columns", "order", "live")]
    return view.url("tasks", query=[*filters.to_pairs(chosen), *kept])


def _without(view: View, chosen: Sequence[Filter]) -> list[dict[str, Any]]:
    """Which filter empties the list: how many there are without each."""
    found = []
    for number, one in enumerate(chosen):
        others = [other for place, other in enumerate(chosen) if place != number]
        count = view.ask("GET /tasks/count", query=filters.to_query(others)).body
        if count["value"]:
            found.append({"words": " ".join(filters.words_of(one)), "count": count, "to": _address(view, others)})
    return found


def _plugin(view: View, query: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Any:
    """The one that all of these tasks are for; None: there is none, or nobody knows it."""
    queues = {one.get("queue") for one in items} or {query.get("queue")}
    (queue,) = queues if len(queues) == 1 else (None,)
    try:
        return view.client.plugins.of_queue(queue) if isinstance(queue, str) else None
    except NotFoundError:  # the queue was deleted
        return None


def _columns(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each column with its word, and whether it has nothing but numbers."""
    found = []
    for number, name in enumerate(names):
        cells = [one["cells"][number] for one in rows if one["cells"][number] is not None]
        is_number = bool(cells) and all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in cells)
        found.append({"name": name, "word": name.removeprefix("p."), "is_number": is_number})
    return found


def _files(view: View, query: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Where the tasks that fit are got as a file of each kind: by the filters as the API has them."""
    pairs = [(name, one) for name, value in query.items() for one in (value if isinstance(value, list) else [value])]
    if values(view.query, "columns"):
        pairs.append(("columns", ",".join(["task", "status", *(one.removeprefix("p.") for one in names)])))
    said = [(name, str(one).lower() if isinstance(one, bool) else one) for name, one in pairs]
    address = ("api", "v1", "tasks", "export")
    return {
        "CSV": view.url(*address, query=[*said, ("format", "csv")]),
        "NDJSON": view.url(*address, query=[*(one for one in said if one[0] != "columns"), ("format", "ndjson")]),
    }


def _alone(view: View, names: Sequence[str]) -> str:
    """Where the rows that are shown are got by their ids."""
    kept = [("queue", view.get("queue"))] if view.get("queue") and not view.get("queue").startswith("!") else []
    return view.url("tasks", query=[("live", "off"), ("columns", ",".join(names) or "-"), *kept])


def _column_names(view: View, items: Sequence[Mapping[str, Any]], plugin: Any) -> list[str]:
    """The parameters that are shown: those that the address names, else the first two that the plugin requires and
    that are not secret, else those that tell the tasks apart."""
    chosen = [name for some in values(view.query, "columns") for name in some.split(",") if name]
    if chosen:
        return [name for name in dict.fromkeys(chosen) if name != "-"][:_COLUMNS_MAX]
    if len({one.get("queue") for one in items}) != 1:
        return []
    return [f"p.{name}" for name in all_columns.telling_names(items, plugin)]


def _offered(items: Sequence[Mapping[str, Any]], chosen: Sequence[str], plugin: Any) -> list[str]:
    """The columns that can be chosen: the parameters of the plugin, and those that these tasks have."""
    names: dict[str, None] = dict.fromkeys(chosen)
    schema = None if plugin is None else plugin.manifest.parameters
    if isinstance(schema, Mapping) and isinstance(schema.get("properties"), Mapping):
        names |= dict.fromkeys(f"p.{name}" for name, one in schema["properties"].items() if not _is_secret(one))
    for one in items:
        parameters = one.get("parameters")
        for name, value in parameters.items() if isinstance(parameters, Mapping) else ():
            if isinstance(name, str) and value != MASK:
                names.setdefault(f"p.{name}")
    return list(names)[:_OFFERED_MAX]


def _is_secret(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("writeOnly") is True


def rows_of(items: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Tasks of the API as rows of a table."""
    return [_row(one, names) for one in items]


def _row(item: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    run = item.get("run") or {}
    attempts = run.get("attempt") or 0
    return {
        "id": item["_id"],
        "queue": item.get("queue"),
        "fault": item.get("fault"),
        "status": item.get("status"),
        "word": statuses.name(item["status"]) if isinstance(item.get("status"), int) else "damaged",
        "cells": [_cell(item, name) for name in names],
        "attempts": f"{attempts} of {run['attempts_max']}" if run.get("attempts_max") and attempts else attempts,
        "node": run.get("node") or (item.get("node") if isinstance(item.get("node"), str) else None),
        "created": item.get("ctime"),
        "ended": run.get("ended"),
        "error": _error_of(item),
        "progress": item.get("progress") if item.get("status") == Status.RUNNING else None,
    }


def _cell(item: Mapping[str, Any], name: str) -> Any:
    path = ("parameters", *name.removeprefix("p.").split(".")) if name.startswith("p.") else tuple(name.split("."))
    return all_columns.value_at(item, path)


def _error_of(item: Mapping[str, Any]) -> str:
    from disbatch_host.client.history import reason_in_short  # noqa: PLC0415

    if item.get("fault"):
        return f"damaged: {item['fault']}"
    if item.get("status") == Status.CONCLUDED:
        return ""
    words = reason_in_short(Task.from_document({"queue": None, **item}))
    error = item.get("error")
    code = error.get("code") if isinstance(error, Mapping) else None
    return f"{code}: {words}" if code and words and not words.startswith(str(code)) else words or str(code or "")


def _fitting(view: View, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The actions that fit the status of a task that is shown, and the role."""
    words = {str(one["word"]).partition(" ")[0] for one in rows}
    found = []
    if words & _ENDED and view.can("operate"):
        found.append("retry")
    if (words - _ENDED - {"damaged"} or "orphaned" in words) and view.can("operate"):
        found.append("cancel")
    if "blocked" in words and view.can("operate"):
        found.append("release")
    if words & _ENDED and view.can("admin"):
        found.append("delete")
    return found


def _whole_actions(view: View, query: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those that can be done with all that fit: an operation needs to know of which queue, batch or cause."""
    is_bounded = any(name in query for name in ("queue", "batch", "failure", "id"))
    # All of a queue or batch, whatever became of them: nobody means to delete that.
    needs_more = set() if any(name in query for name in ("status", "id", "failure", "failed")) else {"delete"}
    return [one for one in _fitting(view, rows) if one not in needs_more] if is_bounded else []


def _act(view: View) -> Shown:
    """On to the question what would become of the tasks that were selected, or of all that fit."""
    action, ids = view.given("action"), list(dict.fromkeys(values(view.form, "id")))
    if action not in _ACTIONS:
        raise Problem(Code.BODY, f"action: expected one of {', '.join(_ACTIONS)}, found {action!r:.40}")
    if view.given("all"):
        pairs = [(name.removeprefix(_FITS), value) for name, value in view.form if name.startswith(_FITS)]
    elif not ids:
        raise Problem(Code.BODY, "expected at least one task: select some of the list first")
    elif len(ids) > _IDS_MAX:
        raise Problem(Code.BODY, f"expected at most {_IDS_MAX} tasks, found {len(ids)}; a filter can name more")
    else:
        pairs = [("id", one) for one in ids]
    query = [("action", action), *pairs, ("back", view.given("back"))]
    return SeeOther(to=view.url("operations", "new", query=query))


PAGES = (
    Page(path="/tasks", does=_show, about=Code.QUEUE),
    Page(path="/tasks/act", does=_act, method="POST", role=Role.OPERATE, about=Code.TASK),
)

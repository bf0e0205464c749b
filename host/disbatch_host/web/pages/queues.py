"""Queues: the list, one with what is in its way, and its changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from disbatch_host.client import Selection
from disbatch_host.decide import readings
from disbatch_host.web.api.queues import all_queues
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.pages.remedies import remedy_for
from disbatch_host.web.pages.tasks import rows_of
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role

_NEWEST = 10
_CAUSES = 6
_CAUSES_SECONDS = 0.5
# Those of the form of a queue: name, kind, what it says.
FIELDS = (
    ("class", "text", "the plugin that runs its tasks"),
    ("description", "text", "for people"),
    ("maxthreads", "number", "at most so many at once on each node"),
    ("maxtotal", "number", "at most so many at once on all nodes together"),
    ("rate", "text", "at most so many starts, such as 100/m or 10/30s"),
    ("sort", "choice", "fifo: the oldest first; lifo: the newest first"),
    ("keep", "text", "how long ended tasks are kept, such as 30d; for ever if empty"),
    ("keep_attempts", "number", "of how many attempts of a task the output is kept, the current one among them"),
    ("pause_on_failures", "text", "so many failures pause it: 50/10m, or 20%/100 of the last tasks that ended"),
    ("nodes_pin", "list", "the nodes that run it, with spaces between; all if empty"),
    ("nodes_ignore", "list", "the nodes that do not"),
)
_LISTS = frozenset(name for name, kind, _ in FIELDS if kind == "list")
_DIGITS_MAX = 18
_NUMBERS = frozenset(name for name, kind, _ in FIELDS if kind == "number")


def _list(view: View) -> Shown:
    items = all_queues(view.call)
    return Html(template="queues.html", title="Queues", values={"queues": items})


def _show(view: View) -> Shown:
    queue = _queue(view)
    values: dict[str, Any] = {"queue": queue, "name": view.path["q"], "causes": _causes(view), "fields": FIELDS}
    page = view.ask("GET /tasks", query={"queue": view.path["q"], "limit": _NEWEST}).body
    notes = [one for one in queue.get("notes") or [] if one["code"] != "paused"]
    values["notes"] = [(one, remedy_for(one["code"], view.path["q"], view.can)) for one in notes]
    values["newest"] = rows_of(page["items"])
    values |= _nodes_of(view, queue)
    return Html(template="queue.html", title=f"{view.path['q']} (queue)", values=values)


def _queue(view: View) -> dict[str, Any]:
    answer = view.ask("GET /queues/{q}", q=view.path["q"])
    return {**answer.body, "etag": answer.headers.get("ETag", "")}


def _causes(view: View) -> Any:
    found = view.client.failures(Selection(queue=view.path["q"]), limit=_CAUSES, seconds=_CAUSES_SECONDS)
    return found.reasons


def _nodes_of(view: View, queue: Mapping[str, Any]) -> dict[str, Any]:
    """The living nodes that have its plugin, by the version of that; and how many of its tasks each of them runs."""
    class_name, name = queue.get("class"), view.path["q"]
    if not isinstance(class_name, str) or view.who.queues is not None:
        return {"nodes": [], "in_use": []}
    records = view.client.nodes.list(class_name=class_name, is_alive=True)
    by_version: dict[str, list[str]] = {}
    for one in records:
        by_version.setdefault(readings.versions_of(one)[class_name], []).append(one.id)
    in_use = [
        (one.id, readings.number(served, "processing"))
        for one in records
        for served in readings.heartbeat_queues(one)
        if served.get("queue") == name and readings.number(served, "processing")
    ]
    return {"nodes": sorted(by_version.items(), reverse=True), "in_use": in_use}


def _pause(view: View) -> Shown:
    reason = view.given("reason").strip()
    view.ask("POST /queues/{q}/pause", body={"reason": reason} if reason else None, q=view.path["q"])
    return _to(view)


def _resume(view: View) -> Shown:
    view.ask("POST /queues/{q}/resume", q=view.path["q"])
    return _to(view)


def _to(view: View) -> SeeOther:
    return SeeOther(to=view.url("queues", view.path["q"]))


def _new(view: View) -> Shown:
    values = {"fields": FIELDS, "given": {"class": view.get("class")}, "classes": view.client.plugins.classes()}
    return Html(template="queue_form.html", title="Create a queue", values=values)


def _create(view: View) -> Shown:
    given = {name: view.given(name) for name, _, _ in FIELDS} | {"_id": view.given("_id")}
    try:
        fields = {name: value for name, value in _fields_in(given).items() if value is not None}
        view.ask("POST /queues", body={"_id": given["_id"].strip(), **fields})
    except Problem as error:
        values = {"fields": FIELDS, "given": given, "problem": error, "classes": view.client.plugins.classes()}
        return Html(template="queue_form.html", title="Create a queue", values=values, status=int(error.code.status))
    return SeeOther(to=view.url("queues", given["_id"].strip()))


def _change_form(view: View) -> Shown:
    queue = _queue(view)
    given = {name: _text_of(queue.get(name)) for name, _, _ in FIELDS}
    values = _form_values(view, given, queue, before=queue)
    return Html(template="queue_form.html", title=f"Change {view.path['q']}", values=values)


def _form_values(
    view: View, given: Mapping[str, str], queue: Mapping[str, Any], *, before: Mapping[str, Any], **more: Any
) -> dict[str, Any]:  # fmt: skip
    """`before`: the queue as the one who changes it has seen it."""
    seen = {name: before.get(name) for name, _, _ in FIELDS}
    return {
        "fields": FIELDS, "given": given, "name": view.path["q"], "etag": queue.get("etag"),
        "before": orjson.dumps(seen).decode(), "classes": view.client.plugins.classes(), **more,
    }  # fmt: skip


def _change(view: View) -> Shown:
    """Only what was changed in the form is sent; where somebody else was faster, all three values are shown."""
    given = {name: view.given(name) for name, _, _ in FIELDS}
    before = _before(view)
    try:
        wanted = _fields_in(given)
        body = {name: value for name, value in wanted.items() if value != before.get(name)}
        if body:
            view.ask("PATCH /queues/{q}", body=body, headers={"if-match": view.given("etag")}, q=view.path["q"])
    except Problem as error:
        if error.code is Code.STALE:
            now = _queue(view)
            rows = [
                {
                    "name": name,
                    "yours": given[name],
                    "now": _text_of(now.get(name)),
                    "before": _text_of(before.get(name)),
                }
                for name, _, _ in FIELDS
            ]
            differing = [one for one in rows if not one["yours"] == one["now"] == one["before"]]
            # What nobody but the other has changed is taken over.
            merged = {one["name"]: one["now"] if one["yours"] == one["before"] else one["yours"] for one in rows}
            values = _form_values(view, merged, now, before=now, differing=differing, problem=error)
        else:
            queue = _queue(view)
            values = _form_values(view, given, {"etag": view.given("etag")}, before=before or queue, problem=error)
        title = f"Change {view.path['q']}"
        return Html(template="queue_form.html", title=title, values=values, status=int(error.code.status))
    return _to(view)


def _before(view: View) -> dict[str, Any]:
    try:
        found = orjson.loads(view.given("before") or "{}")
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _text_of(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _fields_in(given: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a form as a queue has them; None for those that are empty. Raises Problem."""
    found: dict[str, Any] = {}
    for name, _, _ in FIELDS:
        text = given.get(name, "").strip()
        if name in _LISTS:
            found[name] = text.replace(",", " ").split() or None
        elif name in _NUMBERS and text:
            if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX:
                raise Problem(Code.BODY, f"{name}: expected a whole number, found {text!r:.40}")
            found[name] = int(text)
        else:
            found[name] = text or None
    return found


def _delete(view: View) -> Shown:
    name = view.path["q"]
    if view.given("name").strip() != name:
        raise Problem(Code.BODY, f"type the name of the queue, {name!r}, to delete it")
    view.ask("DELETE /queues/{q}", query={"tasks": "keep"}, headers={"if-match": view.given("etag") or "*"}, q=name)
    return SeeOther(to=view.url("queues"))


PAGES = (
    Page(path="/queues", does=_list),
    Page(path="/queues/new", does=_new, role=Role.ADMIN),
    Page(path="/queues/new", does=_create, method="POST", role=Role.ADMIN, about=Code.QUEUE),
    Page(path="/queues/{q}", does=_show, about=Code.QUEUE),
    Page(path="/queues/{q}/pause", does=_pause, method="POST", role=Role.OPERATE, about=Code.QUEUE),
    Page(path="/queues/{q}/resume", does=_resume, method="POST", role=Role.OPERATE, about=Code.QUEUE),
    Page(path="/queues/{q}/change", does=_change_form, role=Role.ADMIN, about=Code.QUEUE),
    Page(path="/queues/{q}/change", does=_change, method="POST", role=Role.ADMIN, about=Code.QUEUE),
    Page(path="/queues/{q}/delete", does=_delete, method="POST", role=Role.ADMIN, about=Code.QUEUE),
)

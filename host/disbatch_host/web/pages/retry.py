"""A task that is run again with other parameters: the form of its plugin, filled in with those that it had.

Responsible for: which values were changed. Must not know: HTML, what runs a task again.

Rules:
1. A secret is never sent to the browser. One that is left empty stays as it is, also within another value.
2. What is left empty keeps the value that it had: a form cannot tell that from a wish to remove it, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from disbatch_host.client.other_parameters import parameters_of
from disbatch_host.documents.records import Task
from disbatch_host.web import filling, forms
from disbatch_host.web.api.tasks import task_of
from disbatch_host.web.documents import plain
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role
from disbatch_protocol.masks import MASK

_MAX_BYTES = 16 * 2**20
_OTHERS = "others"  # the field of parameters that the schema does not name


def _show(view: View) -> Shown:
    task = task_of(view.call)
    masked = filling.without_masks(_masked(view, task))
    return _page(view, task, masked, as_json=view.get("as") == "json")


def _page(
    view: View, task: Task, value: Any, *, as_json: bool, text: str = "", faults: Mapping[str, str] = {},
    problem: Problem | None = None,
) -> Html:  # fmt: skip
    plugin, fields = _fields(view, task)
    rest: dict[str, Any] = {}
    if fields is not None:
        fields, rest = filling.filled(fields, value)
    values = {
        "task": task, "id": str(task.id), "plugin": plugin, "fields": fields, "rest": rest, "others": _OTHERS,
        "as_json": as_json or fields is None, "text": text or orjson.dumps(value, option=orjson.OPT_INDENT_2).decode(),
        "faults": faults, "problem": problem, "reason": view.given("reason"),
        "has_form": fields is not None,
    }  # fmt: skip
    status = 200 if problem is None and not faults else int(problem.code.status) if problem is not None else 422
    return Html(template="retry.html", title=f"Retry {task.queue} {str(task.id)[:8]}…", values=values, status=status)


def _fields(view: View, task: Task) -> tuple[Any, Any]:
    plugin = view.client.plugins.of_queue(str(task.queue))
    schema = None if plugin is None else plugin.manifest.parameters
    return plugin, None if schema is None else forms.fields_of(schema)


def _real(view: View, task: Task) -> Mapping[str, Any]:
    """Its parameters as JSON, for nobody to see. Raises UsageError if they are no object."""
    found: Mapping[str, Any] = plain(view.call, {"parameters": parameters_of(task)})["parameters"]
    return found


def _masked(view: View, task: Task) -> Any:
    parameters_of(task)
    return plain(view.call, {"parameters": view.client.masked(task).get("parameters") or {}})["parameters"]


def retry_with_others(view: View) -> Shown:
    """What the form sends. `as`: form or json; `switch`: the other one is shown, and nothing is run again."""
    task = task_of(view.call)
    as_json = view.given("as") == "json"
    text = view.given("json")
    masked = _masked(view, task)
    try:
        given, faults = _json_in(text) if as_json else _form_in(view, task)
    except ValueError as error:
        return _page(view, task, filling.without_masks(masked), as_json=True, text=text, faults={"json": str(error)})
    if view.given("switch"):
        return _page(view, task, given, as_json=view.given("switch") == "json", faults=faults)
    faults |= dict.fromkeys(filling.masks_in(given), f"{MASK} is not the secret; leave it out, or enter it")
    if not faults:
        values = changed(_real(view, task), masked, given)
        body: dict[str, Any] = {"parameters": values} if values else {}
        if reason := view.given("reason").strip():
            body["reason"] = reason
        try:
            view.ask("POST /tasks/{id}/retry", body=body or None, id=view.path["id"])
            return SeeOther(to=view.url("tasks", view.path["id"]))
        except Problem as error:
            faults = {one.pointer.removeprefix("/parameters"): one.message for one in error.faults}
            return _page(view, task, _shown(view, task, given), as_json=as_json, faults=faults, problem=error)
    return _page(view, task, _shown(view, task, given), as_json=as_json, faults=faults)


def _shown(view: View, task: Task, given: Any) -> Any:
    """What was filled in, without its secrets."""
    plugin, _ = _fields(view, task)
    return filling.without_masks(given if plugin is None else plugin.schema.masked(given))


def _json_in(text: str) -> tuple[Any, dict[str, str]]:
    try:
        value = orjson.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"expected JSON, found something else: {str(error)[:200]}") from error
    return value, {} if isinstance(value, dict) else {"json": 'expected an object, such as {"user": "ann"}'}


def _form_in(view: View, task: Task) -> tuple[Any, dict[str, str]]:
    _, fields = _fields(view, task)
    texts = dict(view.form)
    found, faults = filling.read(fields or (), texts)
    try:
        others = orjson.loads(texts.get(_OTHERS, "").strip() or "{}")
        if not isinstance(others, dict):
            raise ValueError("not an object")
    except ValueError as error:
        return found, {**faults, _OTHERS: f"expected an object of JSON: {str(error)[:100]}"}
    return {**others, **found}, faults


def changed(real: Mapping[str, Any], masked: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are others than before, each with the secrets within it that were left empty (rule 1)."""
    whole = {name: filling.with_secrets(real.get(name), masked.get(name), one) for name, one in given.items()}
    return {name: one for name, one in whole.items() if name not in real or not _is_same(real[name], one)}


def _is_same(one: Any, other: Any) -> bool:
    return forms.json_of(one) == forms.json_of(other)


PAGES = (Page(path="/tasks/{id}/retry", does=_show, role=Role.OPERATE, about=Code.TASK, form_max_bytes=_MAX_BYTES),)

"""Push: a form from the plugin's schema, or JSON, and how the tasks are to run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from disbatch_host import suggested
from disbatch_host.client.times import is_duration
from disbatch_host.errors import DisbatchError
from disbatch_host.web import filling, forms
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View, number_in
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role
from disbatch_protocol import status as statuses
from disbatch_protocol.masks import MASK

COPIES_MAX = 1000
_MAX_BYTES = 16 * 2**20
_OPTIONS = {
    "priority": "Priority", "when": "Not before", "expires": "Expires", "unique_key": "Unique key", "after": "After",
    "copies": "Copies",
}  # fmt: skip
_TASK = re.compile(r"/tasks/\d+/parameters")
_OTHERS = "others"  # the field of parameters that the schema does not name


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What was filled in."""

    as_json: bool
    value: Any = None  # parameters
    text: str = ""  # of JSON
    options: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)  # by the name of a field
    problem: Problem | None = None


def _show(view: View) -> Shown:
    plugin = view.client.plugins.of_queue(view.path["q"])
    view.who.require_queue(view.path["q"])
    value: Any = {}
    if like := view.get("like"):
        value = filling.without_masks(view.ask("GET /tasks/{id}", id=like).body.get("parameters") or {})
    example = view.get("example")
    number = number_in(example)
    if plugin is not None and number is not None and number < len(plugin.manifest.examples):
        found = plugin.manifest.examples[number]
        value = filling.without_masks(plugin.schema.masked(found.parameters))
    given = _Given(as_json=view.get("as") == "json", value=value)
    return _page(view, plugin, given, is_new=not like and not example)


def _page(view: View, plugin: Any, given: _Given, *, is_new: bool = False, status: int = 200) -> Html:
    schema = None if plugin is None else plugin.manifest.parameters
    fields = forms.fields_of(schema) if schema is not None else None
    rest: dict[str, Any] = {}
    if fields is not None and not is_new:
        fields, rest = filling.filled(fields, given.value)
    queue = view.client.queues.get(view.path["q"])
    task = _pushed(view)
    values = {
        "name": view.path["q"], "queue": queue, "plugin": plugin, "fields": fields, "rest": rest,
        "as_json": given.as_json or fields is None, "text": given.text or _pretty(given.value or {}),
        "options": given.options, "faults": given.faults, "problem": given.problem, "others": _OTHERS,
        "takes_others": isinstance(schema, dict) and schema.get("additionalProperties") is not False,
        "examples": [] if plugin is None else plugin.manifest.examples, "labels": _OPTIONS | _labels(fields or ()),
        "given_options": [name for name in _OPTIONS if given.options.get(name)], "task": task,
        "is_finished": task is not None and statuses.is_finished(task["status"]), "command": _command(view, given),
        "runs_somewhere": bool(view.client.nodes.list(class_name=queue.class_name, is_alive=True)),
        "waiting": view.client.queues.state(view.path["q"]).waiting,
    }  # fmt: skip
    return Html(template="push.html", title=f"Push to {view.path['q']}", values=values, status=status)


def _pushed(view: View) -> Any:
    """The task that was just created, as it is now; None if there is none, or any more."""
    if not (task_id := view.get("pushed")):
        return None
    try:
        found = view.ask("GET /tasks/{id}", id=task_id).body
    except Problem:
        return None
    return found if isinstance(found.get("status"), int) else None


def _command(view: View, given: _Given) -> str:
    """What would create the same task at a terminal; empty where nothing is filled in, or a secret is left out."""
    like = view.get("like")
    if like and not view.get("copies"):
        return suggested.command("task push", view.path["q"], "--like", like)
    options = given.options
    if not given.value or not options.get("is_whole") or options.get("copies") not in ("", "1"):
        return ""
    words: list[object] = [view.path["q"], forms.json_of(given.value)]
    if options["when"]:
        words += ["--delay" if is_duration(options["when"]) else "--at", options["when"]]
    for name in ("priority", "expires", "unique_key"):
        if options[name]:
            words += [f"--{name.replace('_', '-')}", options[name]]
    for one in options["after"].replace(",", " ").split():
        words += ["--after", one]
    return suggested.command("task push", *words)


def _labels(fields: Any) -> dict[str, str]:
    found = {}
    for one in fields:
        found[one.name] = one.label
        found |= _labels(one.fields) | _labels(one.variants)
    return found


def _push(view: View) -> Shown:
    plugin = view.client.plugins.of_queue(view.path["q"])
    view.who.require_queue(view.path["q"])
    given = _given(view, plugin)
    if view.given("switch") and given.as_json and "json" in given.faults:
        return _page(view, plugin, given, status=422)  # a form could not hold it
    if view.given("switch"):
        switched = _Given(as_json=view.given("switch") == "json", value=_without_secrets(plugin, given.value),
                          text=given.text if given.value is None else "", options=given.options)  # fmt: skip
        return _page(view, plugin, switched)
    if not given.faults and given.problem is None:
        given = _carried_out(view, plugin, given)
        if isinstance(given, SeeOther):
            return given
    shown = _Given(
        as_json=given.as_json, value=_without_secrets(plugin, given.value), text=_text_again(plugin, given),
        options=given.options, faults=given.faults, problem=given.problem,
    )  # fmt: skip
    status = 200 if given.problem is None and not given.faults else 422
    return _page(view, plugin, shown, status=status)


def _given(view: View, plugin: Any) -> _Given:
    options = {name: view.given(name).strip() for name in _OPTIONS}
    texts = dict(view.form)
    schema = None if plugin is None else plugin.manifest.parameters
    fields = forms.fields_of(schema) if schema is not None else None
    if view.given("as") == "json" or fields is None:
        text = view.given("json")
        try:
            value = orjson.loads(text or "{}")
        except ValueError as error:
            fault = {"json": f"expected JSON, found something else: {str(error)[:200]}"}
            return _Given(as_json=True, text=text, options=options, faults=fault)
        faults = {} if isinstance(value, dict) else {"json": 'expected an object, such as {"user": "ann"}'}
        return _Given(as_json=True, value=value, text=text, options=options, faults=faults)
    found, faults = filling.read(fields, texts)
    try:
        others = orjson.loads(texts.get(_OTHERS, "").strip() or "{}")
        if not isinstance(others, dict):
            raise ValueError("not an object")
        found = {**others, **found}
        whole = found if plugin is None else plugin.schema.with_defaults(found)
        missing = {one.name: _missing(one) for one in filling.not_given(fields, whole)}
        faults = {**missing, **faults}
    except ValueError as error:
        faults = {**faults, _OTHERS: f"expected an object of JSON: {str(error)[:100]}"}
    return _Given(as_json=False, value=found, options=options, faults=faults)


def _missing(one: forms.Field) -> str:
    return "is required" + ("; an empty text can be given in the JSON tab" if one.takes_empty else "")


def _carried_out(view: View, plugin: Any, given: _Given) -> Any:
    """Where it leads, or what was given with what is wrong with it."""
    masked = dict.fromkeys(filling.masks_in(given.value), f"{MASK} is not the secret; enter it again")
    if masked:
        return _with(given, masked)
    try:
        copies, task = _task(given)
        if view.given("check"):
            faults = view.ask("POST /queues/{q}/tasks/check", body=task, q=view.path["q"]).body["faults"]
            if faults:
                told = [(one["pointer"], one["message"]) for one in faults]
                return _with(given, {_name_of(pointer): _words_of(pointer, words) for pointer, words in told})
            whole = "1" if _without_secrets(plugin, given.value) == given.value else ""
            return _Given(as_json=given.as_json, value=given.value, text=given.text,
                          options={**given.options, "fits": "1", "is_whole": whole})  # fmt: skip
        body = task if copies == 1 else {"tasks": [task] * copies}
        answer = view.ask("POST /queues/{q}/tasks", body=body, q=view.path["q"]).body
    except Problem as error:
        by_field = {
            _name_of(one.pointer): _words_of(one.pointer, one.message) + (f"; {one.hint}" if one.hint else "")
            for one in error.faults
        }
        return _with(given, by_field, error)
    query = {"pushed": answer["ids"][0], "like": answer["ids"][0], "copies": copies if copies > 1 else "",
             "existing": answer["existing"] or "", "as": "json" if given.as_json else ""}  # fmt: skip
    return SeeOther(to=view.url("queues", view.path["q"], "push", query=query))


def _with(given: _Given, faults: Mapping[str, str], problem: Problem | None = None) -> _Given:
    return _Given(as_json=given.as_json, value=given.value, text=given.text, options=given.options,
                  faults={**given.faults, **faults}, problem=problem)  # fmt: skip


def _name_of(pointer: str) -> str:
    """The field that a fault of the API is about: its parameters, or one of the others."""
    match = _TASK.match(pointer)
    if match is not None:
        return pointer[match.end() :]
    name = pointer.rpartition("/")[2]
    return "when" if name in ("delay", "at") else name


def _words_of(pointer: str, words: str) -> str:
    """A moment may be a duration as well, and who looks at the page may be in another zone."""
    if _TASK.match(pointer) is not None:
        return words
    if pointer.endswith("/at") and words.startswith("expected a time"):
        words = words.replace("expected", 'expected a duration like "2h",', 1)
    return words.replace("in local time", "in local time of the server", 1)


def _task(given: _Given) -> tuple[int, dict[str, Any]]:
    """How many, and one of them as the API takes it. Raises Problem."""
    options = given.options
    task: dict[str, Any] = {"parameters": given.value}
    if options["priority"]:
        task["priority"] = _whole("priority", options["priority"], -(2**31), 2**31)
    if options["when"]:
        task["delay" if is_duration(options["when"]) else "at"] = options["when"]
    for name in ("expires", "unique_key"):
        if options[name]:
            task[name] = options[name]
    if options["after"]:
        task["after"] = options["after"].replace(",", " ").split()
    copies = _whole("copies", options["copies"] or "1", 1, COPIES_MAX)
    if copies > 1 and options["unique_key"]:
        raise Problem(Code.BODY, "copies: expected 1 with a unique key, since only one task can have it")
    return copies, task


def _whole(name: str, text: str, low: int, high: int) -> int:
    digits = number_in(text.removeprefix("-"))
    number = -digits if digits is not None and text.startswith("-") else digits
    if number is None or not low <= number <= high:
        raise Problem(Code.BODY, f"{name}: expected a whole number from {low:,} to {high:,}, found {text!r:.40}")
    return number


def _without_secrets(plugin: Any, value: Any) -> Any:
    """What is sent back to the browser: secrets are entered again."""
    if plugin is None or not isinstance(value, dict):
        return value
    return filling.without_masks(plugin.schema.masked(value))


def _text_again(plugin: Any, given: _Given) -> str:
    """The JSON that was typed, without its secrets; they are also found where it is no JSON yet."""
    if not given.as_json or given.value is not None:
        return ""
    text = given.text
    for name in _secret_names(plugin):
        text = re.sub(rf'("{re.escape(name)}"\s*:\s*)("(?:[^"\\]|\\.)*"?|[^,}}\s]+)', r'\1"' + MASK + '"', text)
    return text


def _secret_names(plugin: Any) -> list[str]:
    if plugin is None:
        return []
    from disbatch_host.client.parameter_table import rows_of  # noqa: PLC0415

    try:
        rows = rows_of(plugin.manifest.parameters, plugin.schema)
    except DisbatchError:
        return []
    return [one.name.rpartition(".")[2] for one in rows if one.is_secret]


def _pretty(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


PAGES = (
    Page(path="/queues/{q}/push", does=_show, role=Role.OPERATE, about=Code.QUEUE),
    Page(
        path="/queues/{q}/push",
        does=_push,
        method="POST",
        role=Role.OPERATE,
        about=Code.QUEUE,
        form_max_bytes=_MAX_BYTES,
    ),
)

"""Import, step 2: what each column becomes, what all tasks get, and what makes a row known again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from disbatch_host.errors import DisbatchError
from disbatch_host.web import filling, forms
from disbatch_host.web.api import imports as routes
from disbatch_host.web.forms import Field
from disbatch_host.web.impression import Impression, impression_of
from disbatch_host.web.pages import import_check
from disbatch_host.web.pages.import_steps import Wizard, columns_of
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View, number_in
from disbatch_host.web.plans import Plan
from disbatch_host.web.problems import Code, Problem, problem_of
from disbatch_host.web.role import Role
from disbatch_protocol.masks import MASK

OPTIONS = ("priority", "when", "expires")
_OTHERS = "others"  # the field of constants that the schema does not name
_MAX_BYTES = 2**20
_PRIORITY_MAX = 10  # digits


def show(wizard: Wizard) -> Shown:
    found = _impression(wizard)
    plan = wizard.plan
    if plan is None or found is None or found.faults:
        return SeeOther(to=wizard.url("file"))
    return _page(wizard, found, plan, {})


def _impression(wizard: Wizard) -> Impression | None:
    plan = wizard.plan
    try:
        return impression_of(wizard.received, None if plan is None else plan.delimiter, guesses=True)
    except DisbatchError:
        return None


def _page(
    wizard: Wizard, found: Impression, plan: Plan, faults: Mapping[str, str], problem: Problem | None = None
) -> Html:
    fields, rest = _filled(wizard, plan)
    columns = columns_of(wizard, found, plan)
    for number, one in enumerate(columns):
        one |= {"number": number, "to": plan.maps.get(one["name"], "")}
    values = {
        **wizard.values("map", plan), "found": found, "columns": columns, "plan": plan, "fields": fields, "rest": rest,
        "faults": faults, "problem": problem, "options": {name: plan.options.get(name, "") for name in OPTIONS},
        "others": _OTHERS, "labels": _labels(columns), "lines": [one.line for one in found.rows if not one.reason],
        "has_constants": bool(plan.constants) or any(one.startswith("/") or one == _OTHERS for one in faults),
    }  # fmt: skip
    status = 422 if faults or problem is not None else 200
    return Html(template="import_columns.html", title=f"Import into {wizard.queue}: columns", values=values,
                status=status)  # fmt: skip


def _labels(columns: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    named = {f"to.{one['number']}": one["name"] for one in columns}
    return {**named, "key": "Unique key", "columns": "Columns", "when": "Not before", _OTHERS: "Others"}


def _fields(wizard: Wizard) -> tuple[Field, ...] | None:
    """Of what all tasks get: none of them has to be given."""
    fields = None if wizard.plugin is None else forms.fields_of(wizard.plugin.manifest.parameters)
    return None if fields is None else tuple(map(_optional, fields))


def _optional(one: Field) -> Field:
    variants = tuple(replace(inner, fields=tuple(map(_optional, inner.fields))) for inner in one.variants)
    return replace(one, is_required=False, fields=tuple(map(_optional, one.fields)), variants=variants)


def _filled(wizard: Wizard, plan: Plan) -> tuple[tuple[Field, ...] | None, dict[str, Any]]:
    fields = _fields(wizard)
    schema = wizard.targets.schema
    shown = dict(plan.constants if schema is None else filling.without_masks(schema.masked(plan.constants)))
    return (None, shown) if fields is None else filling.filled(fields, shown)


def _decide(view: View) -> Shown:
    """What was chosen; all rows are tried with it."""
    wizard = Wizard(view)
    if (begun := wizard.begun()) is not None:
        return begun
    before, found = wizard.plan, _impression(wizard)
    if before is None or found is None or found.faults:
        return SeeOther(to=wizard.url("file"))
    plan, faults = _chosen(wizard, found, before)
    if faults:
        return _page(wizard, found, plan, faults)
    plan = replace(plan, is_decided=True)
    try:
        call = replace(view.call, body=plan.body(wizard.upload))
        received, prepared = routes.prepared_of(call)
        wizard.keep(plan)
        import_check.begin(wizard, plan, received, prepared)
    except Problem as error:
        return _page(wizard, found, plan, _by_field(error), error)
    except DisbatchError as error:
        told = problem_of(error, missing=Code.QUEUE)
        return _page(wizard, found, plan, _by_field(told), told)
    return SeeOther(to=wizard.url("check"))


def _by_field(problem: Problem) -> dict[str, str]:
    """The faults of the API at the fields that they are about."""
    names = {"/delay": "when", "/at": "when", "/expires": "expires", "/priority": "priority", "/key_column": "key",
             "/maps": "columns"}  # fmt: skip
    found = {}
    for one in problem.faults:
        name = one.pointer.removeprefix("/set") if one.pointer.startswith("/set/") else names.get(one.pointer)
        if name is not None:
            found[name] = one.message
    return found


def _chosen(wizard: Wizard, found: Impression, before: Plan) -> tuple[Plan, dict[str, str]]:
    view = wizard.view
    faults: dict[str, str] = {}
    maps = _maps(view, found.columns, faults)
    constants = _constants(wizard, before, maps, faults)
    key = number_in(view.given("key"))
    chosen_key = found.columns[key] if key is not None and key < len(found.columns) else None
    options = {name: text for name in OPTIONS if (text := view.given(name).strip())}
    digits = options.get("priority", "0").removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _PRIORITY_MAX):
        faults["priority"] = f"expected a whole number, found {options.pop('priority')!r:.40}"
    plan = replace(
        before, maps=maps, constants=constants, unique_key_from=chosen_key, options=options,
        is_whole=found.format == "ndjson" and view.given("whole") == "yes",
    )  # fmt: skip
    if not plan.is_whole:
        _check(wizard, plan, found.columns, faults)
    return plan, faults


def _maps(view: View, columns: Sequence[str], faults: dict[str, str]) -> dict[str, str]:
    maps: dict[str, str] = {}
    for number, column in enumerate(columns):
        name = view.given(f"to.{number}").strip()
        if name and not all(name.split(".")):
            faults[f"to.{number}"] = f"expected the name of a parameter, found {name!r:.60}"
        elif name and column:
            maps[column] = name
    return maps


def _check(wizard: Wizard, plan: Plan, columns: Sequence[str], faults: dict[str, str]) -> None:
    """What would be wrong with all rows."""
    taken: dict[str, str] = {}
    for number, column in enumerate(columns):
        name = plan.maps.get(column)
        if name is None:
            continue
        other = next((one for one in taken if one == name or f"{one}.".startswith(f"{name}.")
                      or f"{name}.".startswith(f"{one}.")), None)  # fmt: skip
        if other is not None:
            faults[f"to.{number}"] = f"{other} is what {taken[other]!r:.60} becomes; choose one of the two"
        elif name.partition(".")[0] in plan.constants:
            faults[f"to.{number}"] = f"{name} has the same value for all tasks, below; choose one of the two"
        taken.setdefault(name, column)
    if not plan.maps:
        faults["columns"] = "choose a parameter for at least one column"
    elif missing := wizard.targets.missing([*plan.maps.values(), *plan.constants]):
        faults["columns"] = f"{', '.join(missing)}: required; choose a column, or give a value for all tasks"


def _constants(
    wizard: Wizard, before: Plan, maps: Mapping[str, str], faults: dict[str, str]
) -> dict[str, Any]:  # fmt: skip
    """Secrets that were given before are never sent to the browser: an empty field keeps them."""
    view = wizard.view
    fields = _fields(wizard)
    found: dict[str, Any] = {}
    if fields is not None:
        found, wrong = filling.read(fields, dict(view.form))
        faults |= wrong
    try:
        others = orjson.loads(view.given(_OTHERS).strip() or "{}")
        if not isinstance(others, dict):
            raise ValueError("not an object")
        found = {**others, **found}
    except ValueError as error:
        faults[_OTHERS] = f"expected an object of JSON: {str(error)[:100]}"
    for name in filling.masks_in(found):
        faults[name] = f"{MASK} is not the secret; enter it again"
    return found | _kept(wizard, before.constants, found, {one.partition(".")[0] for one in maps.values()})


def _kept(
    wizard: Wizard, before: Mapping[str, Any], found: Mapping[str, Any], mapped: Collection[str]
) -> dict[str, Any]:  # fmt: skip
    """The constants that have secrets which stay. `mapped`: parameters that have a column now."""
    schema = wizard.targets.schema
    masked = {} if schema is None else schema.masked(before)
    forgotten = {one.key for one in _fields(wizard) or () if wizard.view.given(f"forget{one.name}")}
    kept = {}
    for name, one in masked.items():
        is_secret = filling.without_masks([one]) in ([], [{}], [[]]) and one != before[name]  # all of it
        if name in found:
            kept[name] = filling.with_secrets(before[name], one, found[name])
        elif is_secret and name not in forgotten and (one == MASK or name not in mapped):
            kept[name] = before[name]
    return kept


PAGES = (
    Page(path="/queues/{q}/import/map", does=_decide, method="POST", role=Role.OPERATE, about=Code.QUEUE,
         form_max_bytes=_MAX_BYTES),
)  # fmt: skip

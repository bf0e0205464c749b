"""Import, steps 3 and 4: all rows are tried, then imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from disbatch_host.client.importing.requested import Prepared
from disbatch_host.errors import DisbatchError
from disbatch_host.web import forms
from disbatch_host.web.api import imports as routes
from disbatch_host.web.pages.import_steps import Wizard
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.plans import Plan
from disbatch_host.web.problems import Code, Problem, problem_of
from disbatch_host.web.role import Role
from disbatch_host.web.spool import Received
from disbatch_host.web.trials import Tried, digest_of
from disbatch_protocol.masks import MASK

_WHERE = re.compile(r"""^(?:/\S*|column '[^']*'|'[^']*'): """)
# Types as somebody who has a spreadsheet knows them.
_KINDS = {
    "array": 'a list, as ["a", "b"]', "boolean": "true or false", "integer": "a whole number", "null": "nothing",
    "number": "a number", "object": 'an object, as {"a": 1}', "string": "a text",
}  # fmt: skip
_FURTHER = re.compile(r"; (?=/\S*: )")


def begin(wizard: Wizard, plan: Plan, received: Received, prepared: Prepared) -> None:
    """Try all rows, in the background. Raises Problem."""
    view = wizard.view
    assert view.trials is not None  # there is a file
    view.trials.begin(received, prepared, _digest(wizard, plan), view.who)


def _digest(wizard: Wizard, plan: Plan) -> str:
    """What a trial is of: the plan, and what the plugin takes."""
    takes = None if wizard.plugin is None else wizard.plugin.manifest.parameters
    return digest_of({"plan": plan.body(wizard.received.id), "takes": takes})


def show(wizard: Wizard) -> Shown:
    plan = wizard.plan
    if plan is None or not plan.is_decided:
        return SeeOther(to=wizard.url("map"))
    tried, problem = _tried(wizard, plan)
    return _page(wizard, plan, tried, problem)


def _tried(wizard: Wizard, plan: Plan) -> tuple[Tried | None, str]:
    """The trial, which is begun again if its server did not finish it."""
    view = wizard.view
    assert view.trials is not None
    found = view.trials.find(wizard.received.id, _digest(wizard, plan))
    if found is not None:
        return found, found.error
    try:
        begin(wizard, plan, *routes.prepared_of(replace(view.call, body=plan.body(wizard.received.id))))
    except Problem as error:
        return None, error.detail
    except DisbatchError as error:
        return None, problem_of(error, missing=Code.QUEUE).detail
    return Tried(state="waiting"), ""


def _page(wizard: Wizard, plan: Plan, tried: Tried | None, problem: str, status: int = 200) -> Html:
    found = {} if tried is None else tried.found
    is_under_way = tried is not None and tried.is_under_way
    about = _about(wizard, plan)
    values = {
        **wizard.values("check", plan, is_under_way=is_under_way), "plan": plan, "tried": tried, "problem": problem,
        "found": found,
        "faults": [{**fault_row(one), "about": about.get(one.get("column"), "")} for one in found.get("faults", ())],
        "sample": _sample(found), "lines": found.get("lines", ()),
        "again": wizard.url(like=wizard.upload), "back": wizard.url("map"),
    }  # fmt: skip
    return Html(template="import_check.html", title=f"Import into {wizard.queue}: check", values=values, status=status)


def _about(wizard: Wizard, plan: Plan) -> dict[str, str]:
    """What the schema says of each column: its words and bounds."""
    fields = None if wizard.plugin is None else forms.fields_of(wizard.plugin.manifest.parameters)
    words = {one.key: one.hint for one in fields or () if not one.is_secret}
    return {column: words[name] for column, name in plan.maps.items() if words.get(name)}


def fault_row(fault: Mapping[str, Any]) -> dict[str, Any]:
    """A row that does not fit, in the columns of a table: where, what is there, what should be."""
    reason, row, column = str(fault["reason"]), fault.get("row"), fault.get("column")
    first, *further = _FURTHER.split(_WHERE.sub("", reason))
    expected, _, found = first.partition(", found ")
    cell = row.get(column) if isinstance(row, Mapping) and column in row else None
    return {
        "line": fault["line"], "column": column or "", "reason": reason, "more": len(further),
        "expected": _in_words(expected.removeprefix("expected ")) if found else first,
        "found": "empty" if cell == "" else found.partition("; ")[0] if cell is None else cell,
        "is_secret": cell == MASK,
    }  # fmt: skip


def _in_words(expected: str) -> str:
    kinds = expected.split(" or ")
    return " or ".join(_KINDS[one] for one in kinds) if all(one in _KINDS for one in kinds) else expected


def _sample(found: Mapping[str, Any]) -> dict[str, Any]:
    """The first tasks: a line for each parameter, and for what else they have."""
    tasks = found.get("sample", ())
    names = dict.fromkeys(name for one in tasks for name in one["parameters"])
    others = dict.fromkeys(name for one in tasks for name in one if name not in ("parameters", "queue", "status"))
    return {
        "count": len(tasks),
        "rows": [(name, [one["parameters"].get(name) for one in tasks]) for name in names],
        "others": [(name.replace("_", " "), [one.get(name) for one in tasks]) for name in others],
    }


def _run(view: View) -> Shown:
    """All rows that fit, once they were tried."""
    wizard = Wizard(view)
    if (begun := wizard.begun()) is not None:
        return begun
    plan = wizard.plan
    if plan is None or not plan.is_decided:
        return SeeOther(to=wizard.url("map"))
    tried, _ = _tried(wizard, plan)
    if tried is None or tried.state != "done":
        return SeeOther(to=wizard.url("check"))
    skips = view.given("on_error") == "skip"
    if not tried.found["fit"] or (tried.found["faulty"] and not skips):
        return _page(wizard, plan, tried, "rows do not fit: mend them, or choose to skip them", 409)
    call = replace(view.call, body=plan.body(wizard.upload, skips=skips))
    received, _ = routes.prepared_of(call)
    job_id = wizard.spool.begin(received.id, view.who.by, str(view.client.store.new_ids(1)[0]))
    body = routes.begun(call, received, job_id=job_id, rows=tried.found["rows"]).body
    return SeeOther(to=view.url("imports", body["id"]))


PAGES = (
    Page(path="/queues/{q}/import/run", does=_run, method="POST", role=Role.OPERATE, about=Code.QUEUE),
)  # fmt: skip

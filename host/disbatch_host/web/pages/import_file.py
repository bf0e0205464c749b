"""Import, step 1: a file is sent, and what its beginning shows is looked at. And which step an address is of."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson

from disbatch_host.client.jobs import Jobs
from disbatch_host.errors import DisbatchError, in_words
from disbatch_host.web import imports, plans
from disbatch_host.web.impression import FIRST, Impression, impression_of, is_other_encoding
from disbatch_host.web.pages import import_check, import_columns
from disbatch_host.web.pages.import_steps import STEPS, Wizard, columns_of, required_upload
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.plans import Plan
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role

AUTO, TAB = "auto", "\\t"
DELIMITERS = ((AUTO, "as recognized"), (",", "comma ,"), (";", "semicolon ;"), (TAB, "tab"), ("|", "bar |"))


def _show(view: View) -> Shown:
    wizard = Wizard(view)
    step = view.get("step", "file")
    if step not in dict(STEPS):
        raise Problem(Code.QUERY, f"step: expected one of {', '.join(dict(STEPS))}, found {step!r:.40}")
    if view.call.spool is None or not (wizard.upload or step != "file"):
        return _empty(wizard)
    required_upload(wizard)
    if (begun := wizard.begun()) is not None:
        return begun
    if step == "map":
        return import_columns.show(wizard)
    return _look(wizard) if step == "file" else import_check.show(wizard)


def _empty(wizard: Wizard, problem: str = "", status: int = 200) -> Html:
    """No file yet."""
    view = wizard.view
    files = view.call.spool
    waiting = [] if files is None else [
        {"id": one.id, "name": one.name, "bytes": one.size, "at": datetime.fromtimestamp(one.at, UTC)}
        for one in plans.waiting(files, view.client, view.who.by) if plans.queue_of(files, one.id) == wizard.queue
    ]  # fmt: skip
    values = {
        "name": wizard.queue, "problem": problem, "bytes_max": None if files is None else files.bytes_max,
        "like": view.get("like"), "targets": wizard.targets, "plugin": wizard.plugin, "waiting": waiting,
        "class_name": view.client.queues.get(wizard.queue).class_name,
        "steps": [(name, word, "") for name, word in STEPS],
    }  # fmt: skip
    return Html(template="import_new.html", title=f"Import into {wizard.queue}", values=values, status=status)


def _send(view: View) -> Shown:
    """A file has come, or not."""
    wizard = Wizard(view)
    sent = view.sent
    assert sent is not None
    if isinstance(sent, Problem):
        if not view.call.spool or sent.code is Code.CROSS_SITE:
            raise sent
        words = "choose a file first" if sent.code is Code.BODY else sent.detail
        return _empty(wizard, words, int(sent.code.status))
    try:
        if not sent.size:
            raise Problem(Code.FAULTS, f"{sent.name} is empty" if sent.name != "upload" else "choose a file first")
        found = impression_of(sent, guesses=True)
        plan = _first_plan(wizard, found)
        plans.keep(wizard.spool, sent, plan)
    except (Problem, DisbatchError) as error:
        wizard.spool.remove(sent.id)
        words = error.detail if isinstance(error, Problem) else in_words(error)
        return _empty(wizard, words, int(error.code.status) if isinstance(error, Problem) else 422)
    return SeeOther(to=view.url("queues", wizard.queue, "import", query={"upload": sent.id, "step": "file"}))


def _first_plan(wizard: Wizard, found: Impression) -> Plan:
    delimiter = found.delimiter.replace("\t", TAB) if found.is_guess and found.delimiter else None
    plan = plans.guessed(wizard.queue, found.columns, wizard.targets, form=found.format, delimiter=delimiter)
    earlier = _earlier_plan(wizard, wizard.view.get("like"))
    return plan if earlier is None else plans.like(plan, earlier, found.columns)


def _earlier_plan(wizard: Wizard, name: str) -> Plan | None:
    """That of another file of this person, or of an import, whose rows were mended."""
    if not name:
        return None
    files, view = wizard.spool, wizard.view
    other = files.find(name)
    if other is not None and other.by == view.who.by:
        return plans.find(files, name, wizard.queue)
    job = Jobs(view.client.store, imports.KIND).find(name)
    if job is None or not view.who.sees(str(job.document["queue"])) or str(job.document["queue"]) != wizard.queue:
        return None
    return plans.of_request(orjson.loads(job.document["request"]), wizard.targets.schema)


def _look(wizard: Wizard) -> Html:
    """What the file looks like, with the delimiter that the address says."""
    view = wizard.view
    plan = wizard.plan
    given = view.get("delimiter")
    delimiter = given or (None if plan is None else plan.delimiter)
    if given == AUTO:
        delimiter = None
    problem, found = "", None
    try:
        found = impression_of(wizard.received, delimiter, guesses=True)
    except DisbatchError as error:
        problem = in_words(error)
    if found is not None and (plan is None or (given and delimiter != plan.delimiter)):
        plan = _first_plan(wizard, found) if delimiter is None else plans.guessed(
            wizard.queue, found.columns, wizard.targets, form=found.format, delimiter=delimiter
        )  # fmt: skip
        wizard.keep(plan)
    values = {
        **wizard.values("file", plan), "found": found, "problem": problem, "first": FIRST,
        "columns": [] if found is None or plan is None else columns_of(wizard, found, plan),
        "delimiters": DELIMITERS, "delimiter": delimiter or AUTO, "notices": _notices(found),
        "next": wizard.url("map") if found is not None and not found.faults else "",
    }  # fmt: skip
    return Html(template="import_file.html", title=f"Import into {wizard.queue}: file", values=values)


def _notices(found: Impression | None) -> list[str]:
    """What may be wrong with it, for people who know spreadsheets."""
    if found is None:
        return []
    said = [one for one in found.notices if "--" not in one]  # an option of the command line
    if is_other_encoding(found.first_unreadable):
        assert found.first_unreadable is not None
        said.append(
            f"Line {found.first_unreadable.line} is not UTF-8. Save the file as “CSV UTF-8” and send it again, or its "
            "rows with letters beyond ASCII are refused."
        )
    elif found.unreadable and found.first_unreadable is not None:
        one = found.first_unreadable
        said.append(f"{found.unreadable:,} of these rows cannot be read, the first at line {one.line}: {one.reason}.")
    if found.delimiter is not None and len(found.columns) == 1:
        said.append("There is only one column. If another character divides the fields, choose it below.")
    return said


def _discard(view: View) -> Shown:
    wizard = Wizard(view)
    away = SeeOther(to=wizard.url())
    if (begun := wizard.begun()) is not None:
        return begun
    if view.trials is not None:
        view.trials.stop(wizard.received.id)
    wizard.spool.remove(wizard.received.id)
    return away


PAGES = (
    Page(path="/queues/{q}/import", does=_show, role=Role.OPERATE, about=Code.QUEUE),
    Page(path="/queues/{q}/import", does=_send, method="POST", role=Role.OPERATE, about=Code.QUEUE, takes_file=True),
    Page(path="/queues/{q}/import/discard", does=_discard, method="POST", role=Role.OPERATE, about=Code.QUEUE),
    *import_columns.PAGES,
    *import_check.PAGES,
)

"""What the steps of an import have in common: its queue, its file, where each step is."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from disbatch_host.client.batch_finding import earlier_import
from disbatch_host.web import plans, spool
from disbatch_host.web.api import imports as routes
from disbatch_host.web.impression import Impression
from disbatch_host.web.pages.page import SeeOther, View
from disbatch_host.web.plans import Plan, Targets
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.spool import Received

STEPS = (("file", "File"), ("map", "Columns"), ("check", "Check"), ("run", "Run"))


@dataclass(frozen=True)
class Wizard:
    """Somebody who imports a file into a queue."""

    view: View

    @functools.cached_property
    def queue(self) -> str:
        """Raises Problem, NotFoundError."""
        name = self.view.path["q"]
        self.view.who.require_queue(name)
        self.view.client.queues.get(name)
        return name

    @functools.cached_property
    def plugin(self) -> Any:
        return self.view.client.plugins.of_queue(self.queue)

    @functools.cached_property
    def targets(self) -> Targets:
        return plans.targets_of(self.plugin)

    @functools.cached_property
    def received(self) -> Received:
        """Its file. Raises Problem; somebody else's is not there."""
        return routes.upload_of(self.view.call, self.upload)

    @property
    def upload(self) -> str:
        return self.view.get("upload") or self.view.given("upload")

    @functools.cached_property
    def plan(self) -> Plan | None:
        """As it is kept."""
        return plans.find(self.spool, self.received.id, self.queue)

    @property
    def spool(self) -> spool.Spool:
        return spool.required(self.view.call.spool)

    def keep(self, plan: Plan) -> None:
        plans.keep(self.spool, self.received, plan)

    def begun(self) -> SeeOther | None:
        """Where the import of its file is, if it was begun. One that was promised, and that the store has never got,
        is begun by the next who asks for it."""
        found = self.spool.beside(self.upload, "begun")
        if found is None or found["by"] != self.view.who.by or not plans.is_begun(self.view.client, found):
            return None
        return SeeOther(to=self.view.url("imports", str(found["id"])))

    def url(self, step: str = "", **query: Any) -> str:
        """Of a step of this file; without one, of the first step of another file."""
        ours = {"upload": self.upload, "step": step} if step else {}
        return self.view.url("queues", self.queue, "import", query={**ours, **query})

    def values(self, step: str, plan: Plan | None, *, is_under_way: bool = False) -> dict[str, Any]:
        """What the template of each step has."""
        received, earlier = self.received, None
        if not is_under_way and (plan is None or plan.unique_key_from is None):
            earlier = earlier_import(self.view.client.store, received.sha256, self.queue)
        return {
            "name": self.queue, "plugin": self.plugin, "class_name": self.view.client.queues.get(self.queue).class_name,
            "targets": self.targets, "file": received, "steps": self.links(step, plan), "earlier": earlier,
            "upload": received.id,
        }  # fmt: skip

    def links(self, step: str, plan: Plan | None) -> list[tuple[str, str, str]]:
        """Of each step: its name, its word, and where it is, if one can go there."""
        reached = {"file": True, "map": True, "check": plan is not None and plan.is_decided, "run": False}
        return [(name, word, self.url(name) if reached[name] and name != step else "") for name, word in STEPS]


def columns_of(wizard: Wizard, found: Impression, plan: Plan) -> list[dict[str, Any]]:
    """Each column with its first values."""
    hidden = plans.hidden(found.columns, plan, wizard.targets)
    secrets = {one.name for one in wizard.targets.known if one.is_secret}
    rows = [_cells(one.values, found.columns, wizard.targets.schema) for one in found.rows if not one.reason]
    return [
        {
            "name": one, "is_hidden": one in hidden, "is_secret": plan.maps.get(one) in secrets,
            "values": [] if one in hidden else [row[number] for row in rows if number < len(row)],
        }
        for number, one in enumerate(found.columns)
    ]  # fmt: skip


def _cells(values: Any, columns: tuple[str, ...], schema: Any) -> list[Any]:
    """What a row has in each column; secrets that its objects hold are masked."""
    if not isinstance(values, Mapping):
        return list(values)
    shown = values if schema is None else schema.masked(values)
    return [shown.get(one) for one in columns]


def required_upload(wizard: Wizard) -> None:
    """Raises Problem for a step that nobody has a file for."""
    if not wizard.upload:
        raise Problem(Code.UPLOAD, "expected the file that is to be imported (upload=…); choose it first")

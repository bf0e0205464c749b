"""How somebody wants a file to be imported, as far as that is decided: kept beside the file, since it may have secrets.

Responsible for: this plan, the parameters that columns can become, and which columns must not be shown. Must not know:
HTTP, pages, what fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from disbatch_host.client import Client
from disbatch_host.client.importing import guessing
from disbatch_host.client.importing.mapping import Field, secret_columns
from disbatch_host.client.jobs import Jobs
from disbatch_host.client.parameter_table import rows_of
from disbatch_host.client.times import is_duration
from disbatch_host.errors import DisbatchError
from disbatch_host.web import filling
from disbatch_host.web.imports import KIND
from disbatch_host.web.spool import Received, Spool

_KIND = "plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parameter that a column can become."""

    name: str  # with dots, if it is inside another
    title: str  # what people call it
    kinds: str  # its types in words
    is_required: bool
    is_secret: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """All of them."""

    known: tuple[Target, ...] = ()
    takes_others: bool = True
    schema: Any = None  # of the plugin; None: it is not known

    @property
    def names(self) -> dict[str, str]:
        return {one.name: one.title for one in self.known}

    def missing(self, given: Sequence[str]) -> list[str]:
        """The required ones of which nothing is given: neither they nor anything inside them."""
        tops = {one.partition(".")[0] for one in given}
        return [one.name for one in self.known if one.is_required and "." not in one.name and one.name not in tops]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is decided."""

    queue: str
    delimiter: str | None = None
    is_whole: bool = False  # objects become parameters as they are
    maps: Mapping[str, str] = field(default_factory=dict)  # column: parameter
    constants: Mapping[str, Any] = field(default_factory=dict, repr=False)
    unique_key_from: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)  # priority, when, expires: as they were typed
    is_decided: bool = False  # somebody has looked at the columns

    def body(self, upload: str, *, skips: bool = False) -> dict[str, Any]:
        """What the API is asked for."""
        found: dict[str, Any] = {
            "upload": upload, "queue": self.queue, "on_error": "skip" if skips else "stop", "set": dict(self.constants),
        }  # fmt: skip
        if not self.is_whole:
            found["map"] = dict(self.maps)
        for name, value in (("delimiter", self.delimiter), ("unique_key_from", self.unique_key_from)):
            if value is not None:
                found[name] = value
        for name, text in self.options.items():
            if name == "priority":
                found["priority"] = int(text)
            elif name == "when":
                found["delay" if is_duration(text) else "at"] = text
            else:
                found[name] = text
        return found


def targets_of(plugin: Any) -> Targets:
    """The parameters of a plugin; None: it is not known."""
    if plugin is None or plugin.schema.is_open:
        return Targets(schema=None if plugin is None else plugin.schema)
    try:
        rows = rows_of(plugin.manifest.parameters, plugin.schema)
    except DisbatchError:
        rows = ()
    titles = _titles(plugin.manifest.parameters)
    known = tuple(
        Target(
            name=one.name, title=titles.get(one.name, one.name), kinds=one.types, is_required=one.is_required,
            is_secret=one.is_secret,
        )
        for one in rows
    )  # fmt: skip
    return Targets(known=known, takes_others=not plugin.schema.places.is_closed, schema=plugin.schema)


def _titles(schema: Any) -> dict[str, str]:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return {
        name: " ".join(one["title"].split()) for name, one in (properties or {}).items()
        if isinstance(one, Mapping) and isinstance(one.get("title"), str) and one["title"].strip()
    }  # fmt: skip


def guessed(queue: str, columns: Sequence[str], targets: Targets, *, form: str, delimiter: str | None) -> Plan:
    """A first plan, to be looked at."""
    maps = guessing.guessed(columns, targets.names, takes_others=targets.takes_others)
    is_whole = form == "ndjson" and all(column == name for column, name in maps.items()) and len(maps) == len(columns)
    return Plan(queue=queue, delimiter=delimiter, is_whole=is_whole, maps=maps)


def like(plan: Plan, other: Plan, columns: Sequence[str]) -> Plan:
    """A plan with the decisions of another one, as far as there are its columns."""
    maps = {column: name for column, name in other.maps.items() if column in columns}
    key = other.unique_key_from if other.unique_key_from in columns else None
    return replace(
        plan, maps=maps or plan.maps, is_whole=other.is_whole and plan.is_whole, constants=other.constants,
        unique_key_from=key, options=other.options,
    )  # fmt: skip


def of_request(body: Mapping[str, Any], schema: Any) -> Plan:
    """The plan of an import that was begun, without its secrets; without any constant, if nothing says which are."""
    constants = {} if schema is None else filling.without_masks(schema.masked(body.get("set") or {}))
    options = {"when" if name in ("delay", "at") else name: str(body[name])
               for name in ("priority", "delay", "at", "expires") if body.get(name) is not None}  # fmt: skip
    return Plan(
        queue=str(body["queue"]), maps=body.get("map") or {}, is_whole=body.get("map") is None,
        constants=constants, unique_key_from=body.get("unique_key_from"), options=options,
    )  # fmt: skip


def find(spool: Spool, upload: str, queue: str) -> Plan | None:
    """The plan of a file for this queue."""
    found = spool.own_beside(upload, _KIND)
    return None if found is None or found.get("queue") != queue else Plan(**found)


def queue_of(spool: Spool, upload: str) -> str | None:
    """The queue that a file is for."""
    found = spool.own_beside(upload, _KIND)
    return None if found is None else str(found["queue"])


def waiting(spool: Spool, client: Client, by: str) -> list[Received]:
    """The files of somebody that are not being imported, the newest first."""
    return [
        one for one in spool.of_person(by)
        if (found := spool.beside(one.id, "begun")) is None or not is_begun(client, found)
    ]  # fmt: skip


def is_begun(client: Client, promised: Mapping[str, Any]) -> bool:
    """Whether the store has the import that a file was promised."""
    return Jobs(client.store, KIND).find(str(promised["id"])) is not None


def keep(spool: Spool, received: Received, plan: Plan) -> None:
    """Raises Problem if there is no room."""
    spool.put_beside(received.id, _KIND, asdict(plan))


def hidden(columns: Sequence[str], plan: Plan, targets: Targets) -> frozenset[str]:
    """The columns whose values are not shown: secrets, and, as long as a secret parameter has no column and no value,
    all that nobody has said what they are."""
    schema = targets.schema
    if schema is None or not schema.has_secrets:
        return frozenset()
    fields = [Field(column=column, path=tuple(name.split("."))) for column, name in plan.maps.items()]
    found = set(secret_columns(fields, schema))
    secrets = [one.name for one in targets.known if one.is_secret]
    given = {*plan.maps.values(), *plan.constants}
    if not secrets or any(one not in given and one.partition(".")[0] not in given for one in secrets):
        found |= {one for one in columns if one not in plan.maps}
    return frozenset(found)

"""A route: everything that is said about one method of one address of the API.

Responsible for: what a route is, and reading query and body by its schemas. Must not know: HTTP libraries, what the
routes do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from disbatch_host.web.problems import Code, Fault, Problem
from disbatch_host.web.role import Role
from disbatch_protocol.faults import near_name

if TYPE_CHECKING:
    from disbatch_host.web.call import Answer, Call, Events, Parts
    from disbatch_host.web.opening import Opening

Schema = Mapping[str, Any]  # JSON Schema, 2020-12
Does = Callable[["Call"], "Answer"]  # in a thread, with a store that is lent until it returns
Opens = Callable[["Opening"], Awaitable["Answer | Parts | Events"]]  # in the event loop, for answers that take longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What a request may carry."""

    schema: Schema
    is_required: bool = True
    max_bytes: int = 2**20
    of_lines: Callable[[list[Any]], Any] | None = None  # what lines of NDJSON mean; None: they are not taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one address."""

    method: str
    path: str  # below the base of the API, such as /tasks/{id}
    role: Role | None  # the least that is needed; None: nobody has to be signed in
    words: str  # one line: what it does
    does: Does | None = None  # this, or
    opens: Opens | None = None
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: Body | None = None
    answers: Mapping[int, Schema | None] = field(default_factory=lambda: {200: {}})  # by status; None: no body
    problems: Sequence[Code] = ()  # besides those that every route may have
    about: Code = Code.ROUTE  # what is missing where it says "not found"
    media_type: str = "application/json"
    is_once: bool = False  # takes an Idempotency-Key
    takes_file: bool = False  # the body is kept in the spool, and is a `spool.Received`

    @property
    def is_change(self) -> bool:
        return self.method != "GET"

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    def read_query(self, given: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The query by the schemas of this route. Raises Problem, which names a similar parameter."""
        found: dict[str, Any] = {}
        for name, text in given:
            schema = self.query.get(name)
            if schema is None:
                near = near_name(name, self.query)
                known = ", ".join(sorted(self.query)) or "none"
                hint = f"did you mean {near}?" if near else f"known ones: {known}"
                message = f"not a parameter of {self.name}; {hint}"
                raise Problem(Code.QUERY, f"{name!r:.60} is {message}", faults=[Fault(pointer=name, message=message)])
            if schema.get("type") == "array":
                found.setdefault(name, []).append(text)
            elif name in found:
                raise _wrong(name, "expected once, found several times")
            else:
                found[name] = _value(name, text, schema)
        return found


def _value(name: str, text: str, schema: Schema) -> Any:
    kind = schema.get("type")
    if kind == "integer":
        if not (text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()):
            raise _wrong(name, f"expected a whole number, found {text!r:.40}")
        number = int(text[:20])
        low, high = schema.get("minimum", number), schema.get("maximum", number)
        if not low <= number <= high:
            raise _wrong(name, f"expected a number from {low} to {high}, found {text:.20}")
        return number
    if kind == "boolean":
        if text not in ("yes", "no", "true", "false", "1", "0"):
            raise _wrong(name, f"expected yes or no, found {text!r:.40}")
        return text in ("yes", "true", "1")
    choices = schema.get("enum")
    if choices is not None and text not in choices:
        raise _wrong(name, f"expected one of {', '.join(choices)}, found {text!r:.40}")
    if not text:
        raise _wrong(name, "expected a text, found an empty one")
    if len(text) < schema.get("minLength", 0):
        raise _wrong(name, f"expected {schema['minLength']} characters or more, found {len(text)}")
    if len(text) > schema.get("maxLength", len(text)):
        raise _wrong(name, f"expected at most {schema['maxLength']} characters, found {len(text)}")
    return text


def _wrong(name: str, message: str) -> Problem:
    return Problem(Code.QUERY, f"{name}: {message}", faults=[Fault(pointer=name, message=message)])


def status_of(route: Route) -> HTTPStatus:
    """Of its answer, where it says nothing else."""
    return HTTPStatus(min(route.answers))

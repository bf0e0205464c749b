"""A page: what is at one address of the HTML side, and what it gets and gives.

Responsible for: these shapes, and asking the API on behalf of the person who looks. Must not know: HTTP libraries,
templates.

Rules:
1. A page reads and changes through the routes of the API, with the role of the one who asks: nothing can be done here
   that is refused there.
2. A page is made from what its address says, and nothing else: what is seen can be bookmarked and sent to others.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from disbatch_host.client import Client
from disbatch_host.errors import DisbatchError, FieldError
from disbatch_host.web import api, paths, problems, queries, schemas
from disbatch_host.web.call import Answer, Call
from disbatch_host.web.principal import Principal
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role
from disbatch_host.web.route import Route
from disbatch_host.web.shared import Shared
from disbatch_host.web.spool import Received
from disbatch_host.web.trials import Trials

Pairs = Sequence[tuple[str, str]]  # of a query or a form, in order
_DIGITS_MAX = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Html:
    """A page that is shown."""

    template: str
    title: str  # of the window: what it is
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class SeeOther:
    """Another page is shown: the answer of every form that has done something."""

    to: str  # of `View.url`
    cookies: Mapping[str, str | None] = field(default_factory=dict)  # to be set; None: to be removed


Shown = Html | SeeOther


@dataclass(frozen=True, kw_only=True)
class View:
    """A request for a page that has been read."""

    call: Call
    base: str  # of the site, such as /disbatch
    here: str  # the path that is shown, without the base
    query: Pairs = ()
    form: Pairs = ()
    sent: Received | Problem | None = None  # the file of a form, or why it was not taken
    trials: Trials | None = None  # None: this server takes no files
    origin: str = ""  # of this site for the one who looks, such as https://jobs.example
    seen: Any = None  # what `Page.looks` has found
    told: list[str] = field(default_factory=list)  # what changes have to say to the log

    @property
    def client(self) -> Client:
        return self.call.client

    @property
    def who(self) -> Principal:
        return self.call.who

    @property
    def path(self) -> Mapping[str, str]:
        return self.call.path

    @functools.cached_property
    def now(self) -> datetime:
        return self.client.store.now()

    def url(self, *parts: str, query: Pairs | Mapping[str, Any] = ()) -> str:
        """An address of this site: every link comes from here."""
        return url(self.base, *parts, query=query)

    def get(self, name: str, default: str = "") -> str:
        """The last value of a parameter of the query."""
        return last(self.query, name, default)

    def given(self, name: str, default: str = "") -> str:
        """The last value of a field of the form."""
        return last(self.form, name, default)

    def can(self, role: str) -> bool:
        return self.who.role >= Role[role.upper()]

    def ask(
        self, route: str, *, query: Mapping[str, Any] | None = None, body: Any = None, headers: Mapping[str, str] = {},
        **path: str,
    ) -> Answer:  # fmt: skip
        """What the API answers this person, such as `ask("POST /tasks/{id}/retry", id=…)`; one that is a word of
        Python has `_` at its end. Raises Problem."""
        found = ROUTES[route]
        if found.role is not None:
            self.who.require(found.role)
        if found.body is not None and body is not None and (faults := schemas.faults_of(found.body.schema, body)):
            shown = "; ".join(f"{one.pointer or 'the form'}: {one.message}" for one in faults)
            raise Problem(Code.BODY, shown, faults=faults)
        named = {name.removesuffix("_"): value for name, value in path.items()}
        assert found.does is not None, f"{route} answers for longer than one call"
        call = replace(self.call, path=named, query=dict(query or {}), body=body, headers=headers)
        try:
            answer = found.does(call)
        except FieldError as error:
            if found.is_change:
                raise problems.problem_of(error, missing=found.about) from error
            raise queries.wrong_value(error) from error
        except DisbatchError as error:
            raise problems.problem_of(error, missing=found.about) from error
        if answer.told:
            self.told.append(answer.told)
        return answer


ROUTES: Mapping[str, Route] = {one.name: one for one in api.ROUTES}


def url(base: str, *parts: str, query: Pairs | Mapping[str, Any] = ()) -> str:
    """An address below `base`. That of the overview ends with a slash: a browser sends the cookie to nothing above."""
    return with_query("/".join((base, *(paths.quoted(str(one)) for one in parts or ("",)))), query)


def with_query(path: str, query: Pairs | Mapping[str, Any]) -> str:
    """An address from its path."""
    given = query.items() if isinstance(query, Mapping) else query
    pairs = [(name, str(value)) for name, value in given if value not in (None, "")]
    return f"{path}{'?' if pairs else ''}{urlencode(pairs)}"


def last(pairs: Pairs, name: str, default: str = "") -> str:
    """The last value of a name."""
    return next((value for key, value in reversed(pairs) if key == name), default)


def number_in(text: str) -> int | None:
    """A number from 0 on, as an address or a form has it; None: it is something else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX else None


def values(pairs: Pairs, name: str) -> list[str]:
    """All values of a name that are not empty."""
    return [value for key, value in pairs if key == name and value]


Does = Callable[[View], Shown]
Looks = Callable[[Shared, Principal], Awaitable[Any]]  # in the event loop, before a store is lent


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One method of one address."""

    path: str
    does: Does
    method: str = "GET"
    role: Role = Role.READ  # the least that is needed
    about: Code = Code.ROUTE  # what is missing where it says "not found"
    form_max_bytes: int = 2**20
    takes_file: bool = False  # its form has a file, and nothing else
    looks: Looks | None = None

    @property
    def is_change(self) -> bool:
        return self.method != "GET"

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

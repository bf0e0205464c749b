"""One request as a route sees it, and what it answers: at once, in parts, or as events.

Responsible for: these shapes. Must not know: HTTP libraries, routes.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from disbatch_host.client import Client
from disbatch_host.client.once import Once
from disbatch_host.documents.records import TaskId
from disbatch_host.web import paths
from disbatch_host.web.principal import Principal
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.spool import Spool


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request says, once it has been read."""

    who: Principal
    base: str  # of all links, such as /disbatch/api/v1
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)  # by names in lower case
    once: Once | None = None  # where the request has an Idempotency-Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Asked):
    """A request that may be carried out."""

    client: Client  # of the person who asks, on a store that is lent for this call
    spool: Spool | None = None  # None: this server takes no files
    wake: Callable[[], object] = lambda: None  # tells the background worker that there is something to do

    def new_ids(self, count: int) -> list[TaskId]:
        """Ids for what this request creates, however often it is sent. Raises StillRunningError."""
        store = self.client.store
        return store.new_ids(count) if self.once is None else self.once.ids(store, count)

    def link(self, *parts: str) -> str:
        """The path of a resource of this API."""
        return "/".join((self.base, *(paths.quoted(one) for one in parts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is sent back."""

    body: Any = None  # of plain JSON values
    status: int | None = None  # None: the route's own
    headers: Mapping[str, str] = field(default_factory=dict)
    has_tag: bool = False  # an ETag of the body, which conditional requests are held against
    tag: str | None = None  # another ETag, which they are held against
    told: str = ""  # for the log: of a change, what its address does not say; no secret is in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A body in parts, each of them read when the one before has been taken. Nothing may be reserved before the first
    one is asked for."""

    parts: AsyncGenerator[bytes, None]
    status: int | None = None  # None: the route's own
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str | None = None  # None: the route's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Server-sent events, each element one or several whole ones. They end when the iterator does, and for all the
    reasons for which this server ends a stream."""

    events: AsyncGenerator[bytes, None]


def require_match(call: Call, body: Any) -> None:
    """For a change of a document: the one who changes it has seen it as it is now. Raises Problem."""
    given = call.headers.get("if-match")
    if given is None:
        raise Problem(Code.IF_MATCH, "expected If-Match with the ETag of the document as it was read")
    tag = tag_of(body)
    if given.strip() != "*" and tag not in tags_in(given):
        detail = "it has changed since it was read; `document` is what it is now"
        raise Problem(Code.STALE, detail, headers={"ETag": tag}, more={"document": body})


def tags_in(header: str) -> list[str]:
    """The ETags that a conditional request names."""
    return [one.strip().removeprefix("W/") for one in header.split(",")]


def tag_of(body: Any) -> str:
    """The ETag of a body: two are the same exactly if their JSON is."""
    digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f'"{digest[:32]}"'

"""Why a request was not carried out: RFC 9457 problems, from a closed list of codes.

Responsible for: the codes, what each error of this program is as one of them. Must not know: requests, routes.

Rules:
1. `detail` is the line that a person at a terminal would read: what was expected, what was found, what to do.
2. No problem repeats a secret, or what it cannot tell from one.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any

from disbatch_host import errors
from disbatch_host.client.once import KeyReusedError, StillRunningError
from disbatch_host.errors import DisbatchError

MEDIA_TYPE = "application/problem+json"


class Code(Enum):
    """What can go wrong: the name in `type`, the status, and a title."""

    QUERY = ("query", 400, "A part of the query cannot be used")
    BODY = ("body", 400, "The body cannot be used")
    CURSOR = ("cursor", 400, "The cursor is of another list")
    PROXY = ("proxy", 400, "A header that only the proxy may send")
    UNAUTHENTICATED = ("unauthenticated", 401, "Nobody is signed in")
    ROLE = ("role", 403, "Not allowed with this role")
    CROSS_SITE = ("cross_site", 403, "The request comes from another site")
    ROUTE = ("route", 404, "Nothing is here")
    QUEUE = ("queue", 404, "No such queue")
    TASK = ("task", 404, "No such task")
    BATCH = ("batch", 404, "No such batch")
    NODE = ("node", 404, "No such node")
    PLUGIN = ("plugin", 404, "No such plugin")
    OPERATION = ("operation", 404, "No such operation")
    IMPORT = ("import", 404, "No such import")
    UPLOAD = ("upload", 404, "No such upload")
    METHOD = ("method", 405, "Not a method of this address")
    EXISTS = ("exists", 409, "It exists already")
    HAS_TASKS = ("has_tasks", 409, "The queue has tasks")
    ENDED = ("ended", 409, "The task has ended")
    NOT_ENDED = ("not_ended", 409, "The task has not ended")
    NOT_BLOCKED = ("not_blocked", 409, "The task is not blocked")
    UNIQUE_KEY = ("unique_key", 409, "Another unfinished task has its unique key")
    AWAITED = ("awaited", 409, "Another task waits for it")
    IN_BATCH = ("in_batch", 409, "Its batch is not done")
    CHANGED = ("changed", 409, "Somebody else is changing it")
    CLOSED = ("closed", 409, "The batch takes no more tasks")
    UNFINISHED = ("unfinished", 409, "The batch is not done")
    ALIVE = ("alive", 409, "The node is alive, or holds tasks")
    FOREIGN = ("foreign", 409, "The node cannot be asked")
    COUNT_DIFFERS = ("count_differs", 409, "Another number of tasks than expected")
    RUNNING = ("running", 409, "The same request is being carried out")
    NOT_KEPT = ("not_kept", 410, "The output is not kept")
    STALE = ("stale", 412, "It has changed since it was read")
    TOO_LARGE = ("too_large", 413, "The body is too large")
    MEDIA = ("media_type", 415, "A body of another kind is expected")
    RANGE = ("range", 416, "There is nothing in this range")
    HOST = ("host", 421, "This server has another name")
    FAULTS = ("faults", 422, "Some values do not fit")
    KEY_REUSED = ("key_reused", 422, "The idempotency key stands for another request")
    ACTION_FOR_STATUS = ("action_for_status", 422, "The action is not for tasks with this status")
    TOO_SLOW = ("too_slow", 422, "Checking the parameters takes too long")
    IF_MATCH = ("if_match", 428, "If-Match is required")
    HEADER = ("header", 431, "The header is too large")
    TOO_MANY = ("too_many", 429, "Too many requests")
    INTERNAL = ("internal", 500, "This is a fault of the program")
    STORE = ("store", 503, "The store does not answer")
    BUSY = ("busy", 503, "The server has too much to do")
    REFUSED = ("refused", 503, "The store refuses")
    SPOOL = ("spool", 507, "There is no room for the upload")

    def __init__(self, word: str, status: int, title: str) -> None:
        self.word = word
        self.status = HTTPStatus(status)
        self.title = title


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong in a body, a query or a file."""

    pointer: str  # to the value: a JSON pointer in a body, a name in a query
    message: str
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        hint = {} if self.hint is None else {"hint": self.hint}
        return {"pointer": self.pointer, "message": self.message, **hint}


class Problem(Exception):
    """A request that is not carried out."""

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """`more`: further members of the answer, such as the document as it is now."""
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.faults = tuple(faults)
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    def to_json(self, request_id: str) -> dict[str, Any]:
        faults = {"faults": [one.to_json() for one in self.faults]} if self.faults else {}
        return {
            "type": f"urn:disbatch:problem:{self.code.word}",
            "title": self.code.title,
            "status": int(self.code.status),
            "detail": self.detail,
            "instance": f"urn:disbatch:request:{request_id}",
            **faults,
            **self.more,
        }


_RETRY_SECONDS = "5"
# The first that fits counts, so the families come after their members.
_CODES: tuple[tuple[type[DisbatchError], Code], ...] = (
    (StillRunningError, Code.RUNNING),
    (KeyReusedError, Code.KEY_REUSED),
    (errors.BatchClosedError, Code.CLOSED),
    (errors.DuplicateIdError, Code.EXISTS),
    (errors.ChangedMeanwhileError, Code.CHANGED),
    (errors.NodeUnreachableError, Code.FOREIGN),
    (errors.NodeNotGoneError, Code.ALIVE),
    (errors.NotFoundError, Code.ROUTE),
    (errors.StoreUnreachableError, Code.STORE),
    (errors.StoreError, Code.REFUSED),
)


def problem_of(error: DisbatchError, *, missing: Code = Code.ROUTE, wrong: Code = Code.FAULTS) -> Problem:
    """An error of this program as a problem. `missing`: what a NotFoundError is about, `wrong`: a value that cannot be
    used."""
    if isinstance(error, errors.FieldError):
        faults = [Fault(pointer=f"/{error.field}" if wrong is Code.FAULTS else error.field, message=error.reason)]
        return Problem(wrong, str(error), faults=faults)
    if isinstance(error, errors.NotFoundError):
        return Problem(missing, errors.in_words(error))
    code = next((code for kind, code in _CODES if isinstance(error, kind)), wrong)
    headers = {"Retry-After": _RETRY_SECONDS} if code in (Code.STORE, Code.RUNNING) else {}
    return Problem(code, errors.in_words(error), headers=headers)


_STORE = re.compile(r"(?:sqlite|mongodb(?:\+srv)?)://[^;`\s]*")
_IN_STORE = re.compile(rf" in {_STORE.pattern}")
_SHOWS = re.compile(r"; [^;]*`?disbatch-host [^;]* shows? [^;]*")


def in_place(problem: Problem, *, names_store: bool = False) -> Problem:
    """The same for a page: without the commands of a terminal where a thing is not there, and without the store's
    address where it helps nobody."""
    detail = problem.detail
    if problem.code.status == HTTPStatus.NOT_FOUND:
        detail = _SHOWS.sub("", _IN_STORE.sub("", detail))
    if not names_store:
        detail = _STORE.sub("the store", detail)
    return Problem(problem.code, detail, faults=problem.faults, headers=problem.headers, more=problem.more)


def new_request_id() -> str:
    """What an answer, the line in the log and a report of a fault have in common."""
    return secrets.token_hex(8)

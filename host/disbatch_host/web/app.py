"""The application: routes of the API and of the page over one pool of clients.

Responsible for: the way of a request, from who sent it to its answer. Must not know: what a route does, sockets.

Rules:
1. In this order: who asks, whether he may, whether the request comes from here, whether he asks too often, query, body;
   only then a client is taken.
2. Every change is one line in the log: who, from where, what, how it ended.
3. An exception that nobody expected is one line in the log, and 500 with the id of that line; its words go nowhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.routing import Route as StarletteRoute

from disbatch_host.errors import DisbatchError, FieldError, in_words
from disbatch_host.web import api, guard, problems, queries, receiving, schemas, spool
from disbatch_host.web.call import Answer, Events, Parts, tag_of, tags_in
from disbatch_host.web.guard import Guard, Place
from disbatch_host.web.identity import COOKIE, Identity, unauthenticated
from disbatch_host.web.limits import Rate
from disbatch_host.web.once import carried_out, once_of
from disbatch_host.web.opening import Opening
from disbatch_host.web.principal import Principal
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role
from disbatch_host.web.route import Body, Route, status_of
from disbatch_host.web.shared import Shared

log = logging.getLogger(__name__)

API = "/api/v1"
CHANGES_PER_SECOND = 60
_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"
_NDJSON = "application/x-ndjson"

Endpoint = Callable[[Request], Awaitable[Response]]


class Application:
    """Everything that requests share. Made in the event loop that serves them."""

    def __init__(
        self, shared: Shared, identity: Identity, place: Place, *, changes_per_second: int = CHANGES_PER_SECOND
    ) -> None:
        """`changes_per_second`: at most so many by one person."""
        self._shared = shared
        self._identity = identity
        self._place = place
        self._changes = Rate(changes_per_second, 1.0)
        self._changes_per_second = changes_per_second
        self._base = f"{place.base_path}{API}"
        self._no_page: Endpoint | None = None

    def asgi(self, more: Sequence[BaseRoute] = (), *, no_page: Endpoint | None = None) -> guard.App:
        """What a server calls. `more`: routes beside those of the API; `no_page` answers for all other addresses."""
        self._no_page = no_page
        by_path: dict[str, list[Route]] = {}
        for route in api.ROUTES:
            by_path.setdefault(route.path, []).append(route)
        found: list[BaseRoute] = [
            StarletteRoute(f"{API}{path}", self._endpoint(routes), methods=[*{one.method for one in routes}])
            for path, routes in by_path.items()
        ]
        handlers = {HTTPStatus.NOT_FOUND: self._no_route, HTTPStatus.METHOD_NOT_ALLOWED: self._no_method}
        app: Any = Starlette(routes=[*found, *more], exception_handlers=handlers)
        return Guard(app, self._place, lambda _, problem: problem_response(problem, problems.new_request_id()))

    def _endpoint(self, routes: Sequence[Route]) -> Endpoint:
        by_method = {route.method: route for route in routes}

        async def endpoint(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            return await self._answer(by_method[method], request)

        return endpoint

    async def _answer(self, route: Route, request: Request) -> Response:
        request_id = problems.new_request_id()
        began = time.monotonic()
        who: Principal | None = None
        try:
            who = self.known(request, route.role, is_change=route.is_change)
            answer = await self._carry_out(route, request, who)
            if isinstance(answer, Answer):
                response = self._response(route, request, answer)
            else:
                response = self._longer(route, request, who, answer)
        except Problem as error:
            response = problem_response(error, request_id)
        except DisbatchError as error:
            response = problem_response(_problem_of(route, error), request_id)
        except ConnectionResetError:  # it has gone away while it sent its body
            response = Response(status_code=HTTPStatus.BAD_REQUEST)
        except Exception as error:
            log.error("request %s: %s %s: %s", request_id, route.method, route.path, in_words(error))
            log.debug("request %s", request_id, exc_info=True)
            problem = Problem(Code.INTERNAL, f"a fault of this program; its log says more, at {request_id}")
            response = problem_response(problem, request_id)
        self._shared.figures.count_request(route.name, response.status_code, time.monotonic() - began)
        if route.is_change:
            audit(request, who, route.name, response.status_code, request_id)
        return response

    def known(self, request: Request, role: Role | None, *, is_change: bool) -> Principal:
        """Who sent a request, if he may do it. Raises Problem."""
        who = self._sender(request)
        if who is None:
            if role is not None:
                raise unauthenticated()
            return Principal(name="nobody", role=Role.READ, queues=frozenset())
        if role is not None:
            who.require(role)
        if is_change:
            if who.is_of_browser:
                guard.require_own_site(request.scope, self._place)
            if self._changes.seconds_left(who.name) > 0:
                detail = f"more than {self._changes_per_second} changes in a second by {who.name}"
                raise Problem(Code.TOO_MANY, f"{detail}; one request may have many tasks", headers={"Retry-After": "1"})
            self._changes.count(who.name)
        return who

    async def _carry_out(self, route: Route, request: Request, who: Principal) -> Answer | Parts | Events:
        query = route.read_query(request.query_params.multi_items())
        body: Any = None
        if route.takes_file:
            body = await receiving.received(spool.required(self._shared.spool), request, who.by)
        elif route.body is not None:
            body = await self._body(route.body, request)
        path, headers = dict(request.path_params), {name.lower(): value for name, value in request.headers.items()}
        once = once_of(route, who.name, headers, [path, query, body], lease_seconds=self._shared.lease_seconds)
        opening = Opening(
            shared=self._shared, who=who, base=self._base, path=path, query=query, body=body, headers=headers, once=once
        )
        return await carried_out(route, opening)

    async def _body(self, wanted: Body, request: Request) -> Any:
        data = await guard.read_body(request.receive, request.scope, wanted.max_bytes)
        if not data and not wanted.is_required:
            return None
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == _NDJSON and wanted.of_lines is not None:
            found = wanted.of_lines(receiving.lines_of(data))
        elif kind in (_JSON, _MERGE_PATCH):
            found = receiving.json_of(data)
        else:
            also = "" if wanted.of_lines is None else f" or {_NDJSON}"
            raise Problem(Code.MEDIA, f"expected a body of {_JSON}{also}, found {kind or 'none'!r:.80}")
        if faults := schemas.faults_of(wanted.schema, found):
            shown = "; ".join(f"{one.pointer or 'the body'}: {one.message}" for one in faults)
            raise Problem(Code.BODY, shown, faults=faults)
        return found

    def _response(self, route: Route, request: Request, answer: Answer) -> Response:
        status = HTTPStatus(answer.status or status_of(route))
        headers = dict(answer.headers)
        tag = tag_of(answer.body) if answer.has_tag else answer.tag
        if tag is not None:
            headers["ETag"] = tag
            if not route.is_change and tag in tags_in(request.headers.get("if-none-match", "")):
                return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            return Response(status_code=status, headers=headers)
        media_type = route.media_type if route.opens is None else _JSON
        return Response(orjson.dumps(answer.body), status_code=status, headers=headers, media_type=media_type)

    def _longer(self, route: Route, request: Request, who: Principal, answer: Parts | Events) -> Response:
        if isinstance(answer, Parts):
            status = answer.status or int(status_of(route))
            return self._shared.sending.parts(answer, who, status, route.media_type)

        return self._shared.sending.events(answer, who, lambda: self._is_still(request, who))

    def _is_still(self, request: Request, who: Principal) -> bool:
        """Whether the sender of a long request still has the rights that it began with."""
        try:
            found = self._sender(request, is_again=True)
        except Problem:
            return False
        return (found is None and who.name == "nobody") or (
            found is not None and found.role >= who.role and found.queues == who.queues
        )

    def _sender(self, request: Request, *, is_again: bool = False) -> Principal | None:
        peer = None if request.client is None else request.client.host
        headers = {name.lower(): value for name, value in request.headers.items()}
        return self._identity.of(headers, request.cookies.get(COOKIE), peer, is_again=is_again)

    async def _no_route(self, request: Request, _: Exception) -> Response:
        if self._no_page is not None and not request.url.path.startswith(API):
            return await self._no_page(request)
        detail = f"nothing is at {request.url.path!r:.200}; {self._base}/ has the addresses"
        return problem_response(Problem(Code.ROUTE, detail), problems.new_request_id())

    async def _no_method(self, request: Request, error: Exception) -> Response:
        headers: Mapping[str, str] = getattr(error, "headers", None) or {}
        detail = f"{request.method} is not for this address; {headers.get('Allow', 'others')} can be used"
        return problem_response(Problem(Code.METHOD, detail, headers=headers), problems.new_request_id())


def problem_response(problem: Problem, request_id: str) -> Response:
    """The answer of the API."""
    return Response(
        orjson.dumps(problem.to_json(request_id)), status_code=problem.code.status, headers=problem.headers,
        media_type=problems.MEDIA_TYPE,
    )  # fmt: skip


def audit(request: Request, who: Principal | None, what: str, status: int, request_id: str) -> None:
    """The line of a change."""
    peer = "local" if request.client is None else request.client.host
    name = "nobody" if who is None else who.name
    log.info("%s from %s: %s -> %d (%s)", name, peer, _on_one_line(request, what), status, request_id)


def _on_one_line(request: Request, what: str) -> str:
    """The route, and what its path names."""
    named = ", ".join(f"{name} {value!r:.80}" for name, value in request.path_params.items())
    return f"{what} ({named})" if named else what


def _problem_of(route: Route, error: DisbatchError) -> Problem:
    wrong = Code.QUERY if not route.is_change else Code.FAULTS
    if isinstance(error, FieldError) and wrong is Code.QUERY:
        return queries.wrong_value(error)
    return problems.problem_of(error, missing=route.about, wrong=wrong)

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
from typing import Any, Protocol

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.routing import Route as StarletteRoute

from disbatch_host.errors import DisbatchError, FieldError, in_words
from disbatch_host.web import api, guard, paths, problems, queries, receiving, schemas, spool
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


class OtherPages(Protocol):
    """What people read where no route has answered."""

    async def no_page(self, request: Request) -> Response:
        """For an address that nothing is at."""
        ...

    async def refused(self, request: Request, problem: Problem) -> Response:
        """For a request that no route gets."""
        ...


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
        self._pages: OtherPages | None = None

    def asgi(self, more: Sequence[StarletteRoute] = (), *, pages: OtherPages | None = None) -> guard.App:
        """What a server calls. `more`: routes beside those of the API; `pages` answers for all other addresses."""
        self._pages = pages
        by_path: dict[str, list[Route]] = {}
        for route in api.ROUTES:
            by_path.setdefault(route.path, []).append(route)
        found = [
            StarletteRoute(f"{API}{path}", self._endpoint(routes), methods=[*{one.method for one in routes}])
            for path, routes in by_path.items()
        ]
        handlers = {HTTPStatus.NOT_FOUND: self._no_route, HTTPStatus.METHOD_NOT_ALLOWED: self._no_method}
        known = [*found, *more]
        app: Any = Starlette(routes=[*known, *_stretched(known)], exception_handlers=handlers)
        app.router.redirect_slashes = False  # it knows no base path
        return Guard(app, self._place, self._refused_at_the_wall)

    def _refused_at_the_wall(self, scope: guard.Scope, problem: Problem) -> guard.App:
        async def refuse(scope: guard.Scope, receive: guard.Receive, send: guard.Send) -> None:
            response = await self._refused(Request(scope, receive), problem)
            await response(scope, receive, send)

        return refuse

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
        told = ""
        try:
            who = self.sender(request)
            who = self.allowed(request, who, route.role, is_change=route.is_change)
            answer = await self._carry_out(route, request, who)
            if isinstance(answer, Answer):
                told = answer.told
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
            audit(request, who, route.name, response.status_code, request_id, told)
        return response

    def known(self, request: Request, role: Role | None, *, is_change: bool) -> Principal:
        """Who sent a request, if they may do it. Raises Problem."""
        return self.allowed(request, self.sender(request), role, is_change=is_change)

    def allowed(self, request: Request, who: Principal | None, role: Role | None, *, is_change: bool) -> Principal:
        """The one who sent a request, if they may do it. Raises Problem."""
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
        path, headers = (
            paths.names(request.path_params),
            {name.lower(): value for name, value in request.headers.items()},
        )
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
            found = self.sender(request, is_again=True)
        except Problem:
            return False
        return (found is None and who.name == "nobody") or (
            found is not None and found.role >= who.role and found.queues == who.queues
        )

    def sender(self, request: Request, *, is_again: bool = False) -> Principal | None:
        """Who sent a request; None: nobody that is known. Raises Problem as `Identity.of` does."""
        peer = None if request.client is None else request.client.host
        headers = {name.lower(): value for name, value in request.headers.items()}
        return self._identity.of(headers, request.cookies.get(COOKIE), peer, is_again=is_again)

    async def _no_route(self, request: Request, _: Exception) -> Response:
        path = request.scope["path"]
        if self._pages is not None and not _is_of_api(path):
            return await self._pages.no_page(request)
        detail = f"nothing is at {paths.shown(path)!r:.200}; {self._base}/ has the addresses"
        return await self._refused(request, Problem(Code.ROUTE, detail))

    async def _no_method(self, request: Request, error: Exception) -> Response:
        headers: Mapping[str, str] = getattr(error, "headers", None) or {}
        detail = f"{request.method} is not for this address; {headers.get('Allow', 'others')} can be used"
        return await self._refused(request, Problem(Code.METHOD, detail, headers=headers))

    async def _refused(self, request: Request, problem: Problem) -> Response:
        """A request that no route gets."""
        if self._pages is not None and not _is_of_api(request.scope["path"]):
            return await self._pages.refused(request, problem)
        return problem_response(problem, problems.new_request_id())


def _is_of_api(path: str) -> bool:
    return f"{path}/".startswith(f"{API}/")


def _stretched(routes: Sequence[StarletteRoute]) -> list[StarletteRoute]:
    """The same for a path that a proxy has unquoted (`paths`, rule 3)."""

    def found_or_nothing(endpoint: Endpoint) -> Endpoint:
        async def tried(request: Request) -> Response:
            response = await endpoint(request) if all(request.path_params.values()) else None
            if response is None or response.status_code == HTTPStatus.NOT_FOUND:
                raise _nothing_at(request, routes)
            return response

        return tried

    return [
        StarletteRoute(path, found_or_nothing(one.endpoint), methods=[*(one.methods or ())])
        for one in sorted(routes, key=lambda one: -paths.fixed_length(one.path))
        if (path := paths.stretched(one.path)) is not None
    ]


def _nothing_at(request: Request, routes: Sequence[StarletteRoute]) -> HTTPException:
    """For an address that has no such method, or that nothing is at."""
    methods = {
        one for route in routes if route.matches(request.scope)[0] is Match.PARTIAL for one in route.methods or ()
    }
    if methods:
        return HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": ", ".join(sorted(methods))})
    return HTTPException(HTTPStatus.NOT_FOUND)


def problem_response(problem: Problem, request_id: str) -> Response:
    """The answer of the API."""
    return Response(
        orjson.dumps(problem.to_json(request_id)), status_code=problem.code.status, headers=problem.headers,
        media_type=problems.MEDIA_TYPE,
    )  # fmt: skip


def audit(
    request: Request, who: Principal | None, what: str, status: int, request_id: str, told: str = ""
) -> None:  # fmt: skip
    """The line of a change. `told`: `Answer.told`."""
    peer = "local" if request.client is None else request.client.host
    name = "nobody" if who is None else who.name
    done = f"{_on_one_line(request, what)}{f': {told}' if told else ''}"
    log.info("%s from %s: %s -> %d (%s)", name, peer, done, status, request_id)


def _on_one_line(request: Request, what: str) -> str:
    """The route, and what its path names."""
    named = ", ".join(f"{name} {value!r:.80}" for name, value in paths.names(request.path_params).items())
    return f"{what} ({named})" if named else what


def _problem_of(route: Route, error: DisbatchError) -> Problem:
    wrong = Code.QUERY if not route.is_change else Code.FAULTS
    if isinstance(error, FieldError) and wrong is Code.QUERY:
        return queries.wrong_value(error)
    return problems.problem_of(error, missing=route.about, wrong=wrong)

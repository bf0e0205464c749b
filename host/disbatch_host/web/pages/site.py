"""The page: its addresses over one application, and the way of a request through them.

Responsible for: reading queries and forms, signing in where nobody is signed in, problems as pages, static files. Must
not know: what a page shows.

Rules:
1. The same walls as for the API, in the same order: who asks, whether they may, whether a change comes from this site.
2. Anyone who is not signed in is asked to sign in, then taken to the page that was asked for.
3. A change answers with another page (303), so that going back or loading again changes nothing twice.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from disbatch_host.client import Client
from disbatch_host.errors import DisbatchError, in_words
from disbatch_host.web import guard, paths, problems, receiving, spool
from disbatch_host.web.app import API, Application, Endpoint, audit
from disbatch_host.web.call import Call
from disbatch_host.web.guard import Place
from disbatch_host.web.identity import COOKIE, Identity
from disbatch_host.web.pages import PAGES, assets, near
from disbatch_host.web.pages.page import Html, Page, Pairs, SeeOther, Shown, View, last, url
from disbatch_host.web.pages.rendering import Look, Renderer
from disbatch_host.web.principal import Principal
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role
from disbatch_host.web.shared import Shared
from disbatch_host.web.spool import Received

log = logging.getLogger(__name__)

SCHEME_COOKIE, ZONE_COOKIE = "dsb_scheme", "dsb_zone"
_YEAR_SECONDS = 365 * 86_400
_NOBODY = Principal(name="nobody", role=Role.READ, queues=frozenset())
_LISTS = {
    Code.QUEUE: "queues", Code.TASK: "tasks", Code.BATCH: "batches", Code.NODE: "nodes", Code.PLUGIN: "plugins",
    Code.OPERATION: "operations", Code.IMPORT: "imports", Code.UPLOAD: "imports",
}  # fmt: skip
_LOGIN_MAX = 16 * 1024
# For a browser that sends no Sec-Fetch-Site (plain HTTP): after `no-referrer` its forms would say `Origin: null`, and
# nothing would tell them from those of other sites. docs/decisions/0010 has the rest.
_SAYS_ORIGIN = {"Referrer-Policy": "same-origin"}


class Site:
    """Makes the routes of the page."""

    def __init__(
        self, application: Application, shared: Shared, identity: Identity, place: Place, *, zone: str = "local"
    ) -> None:
        """`zone`: of times, for people who have not chosen one."""
        self._application = application
        self._shared = shared
        self._identity = identity
        self._place = place
        self._zone = zone
        self._renderer = Renderer(place.base_path)

    def routes(self) -> list[StarletteRoute]:
        by_path: dict[str, dict[str, Page]] = {}
        for page in PAGES:
            by_path.setdefault(page.path, {})[page.method] = page
        return [
            StarletteRoute("/login", self._login_page, methods=["GET"]),
            StarletteRoute("/login", self._sign_in, methods=["POST"]),
            StarletteRoute("/logout", self._sign_out, methods=["POST"]),
            StarletteRoute("/look", self._look, methods=["POST"]),
            StarletteRoute("/static/{name}", self._static, methods=["GET"]),
            StarletteRoute("/favicon.ico", self._icon, methods=["GET"]),
            *(
                StarletteRoute(path, self._endpoint(pages), methods=[*pages])
                for path, pages in by_path.items()
            ),
        ]  # fmt: skip

    async def no_page(self, request: Request) -> Response:
        """For an address that nothing is at."""
        path: str = request.scope["path"]
        if (path.endswith("/") or not path) and path != "/" and request.method in ("GET", "HEAD"):
            to = url(
                self._place.base_path,
                *map(unquote, filter(None, path.strip("/").split("/"))),
                query=request.query_params.multi_items(),
            )
            return await self._response(request, SeeOther(to=to), None)
        problem = Problem(Code.ROUTE, f"nothing is at {paths.shown(path)!r:.200}", more={"near": near(path)})
        return await self._refused(request, problem, problems.new_request_id(), self._who_or_nobody(request))

    async def refused(self, request: Request, problem: Problem) -> Response:
        """For a request that no route gets."""
        is_ours = problem.code is not Code.HOST  # else nobody is told who is signed in here
        return await self._refused(
            request, problem, problems.new_request_id(), self._who_or_nobody(request) if is_ours else None
        )

    def _endpoint(self, pages: Mapping[str, Page]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            return await self._answer(pages["GET" if request.method == "HEAD" else request.method], request)

        return endpoint

    async def _answer(self, page: Page, request: Request) -> Response:
        request_id = problems.new_request_id()
        who: Principal | None = None
        told: list[str] = []
        try:
            who = self._application.sender(request)
            who = self._application.allowed(request, who, page.role, is_change=page.is_change)
            sent = await self._sent(request, who) if page.takes_file else None
            form = await _form_of(request, page.form_max_bytes) if page.is_change and not page.takes_file else ()
            seen = None if page.looks is None else await page.looks(self._shared, who)
            view = self._view(request, who, form, sent, seen, told)
            shown = await self._shown(page, view, who, sent)
            response = await self._response(request, shown, who)
        except Problem as error:
            response = await self._refused(request, error, request_id, who)
        except DisbatchError as error:
            response = await self._refused(request, problems.problem_of(error, missing=page.about), request_id, who)
        except ConnectionResetError:
            response = Response(status_code=HTTPStatus.BAD_REQUEST)
        except Exception as error:
            log.error("request %s: %s: %s", request_id, page.name, in_words(error))
            log.debug("request %s", request_id, exc_info=True)
            problem = Problem(Code.INTERNAL, f"a fault of this program; its log says more, at {request_id}")
            response = await self._refused(request, problem, request_id, who)
        if page.is_change:
            audit(request, who, page.name, response.status_code, request_id, "; ".join(told))
        return response

    async def _shown(
        self, page: Page, view: Callable[[Client], View], who: Principal, sent: Received | Problem | None
    ) -> Shown:
        try:
            return await self._shared.pool.run(lambda client: page.does(view(client)), who.by)
        except BaseException:
            if isinstance(sent, Received):  # nobody would find it again
                await asyncio.to_thread(spool.required(self._shared.spool).remove, sent.id)
            raise

    async def _sent(self, request: Request, who: Principal) -> Received | Problem:
        """The file of a form. What is wrong with it is said on the page that it was sent from."""
        try:
            return await receiving.received(spool.required(self._shared.spool), request, who.by)
        except Problem as error:
            await receiving.discard(request)
            return error

    def _view(
        self, request: Request, who: Principal, form: Pairs, sent: Received | Problem | None, seen: Any, told: list[str]
    ) -> Callable[[Client], View]:
        """What a page gets, once there is a store."""
        call = functools.partial(
            Call, who=who, base=f"{self._place.base_path}{API}", path=paths.names(request.path_params),
            spool=self._shared.spool, wake=self._shared.background.wake,
        )  # fmt: skip
        query = [(name, value) for name, value in request.query_params.multi_items() if value]
        scheme = "https" if self._place.is_encrypted(request.scope) else "http"
        view = functools.partial(
            View, base=self._place.base_path, here=request.scope["path"], query=query, form=form, sent=sent, seen=seen,
            told=told, trials=self._shared.trials, origin=f"{scheme}://{request.headers.get('host', '')}",
        )  # fmt: skip
        return lambda client: view(call=call(client=client))

    async def _response(self, request: Request, shown: Shown, who: Principal | None) -> Response:
        if isinstance(shown, SeeOther):
            return Response(status_code=HTTPStatus.SEE_OTHER, headers={"Location": shown.to})
        text = await asyncio.to_thread(self._renderer.page, shown, self._look_of(request, who))
        headers = {} if "sec-fetch-site" in request.headers else _SAYS_ORIGIN
        return Response(text, status_code=shown.status, media_type="text/html; charset=utf-8", headers=headers)

    async def _refused(
        self, request: Request, problem: Problem, request_id: str, who: Principal | None
    ) -> Response:  # fmt: skip
        path = request.scope["path"]
        if problem.code is Code.UNAUTHENTICATED and path != "/login":
            query = request.scope["query_string"].decode("latin-1")
            wanted = (f"{path}?{query}" if query else path) if request.method in ("GET", "HEAD") else "/"
            return await self._response(request, SeeOther(to=self._url("login", query={"next": wanted})), who)
        shown = problems.in_place(problem, names_store=who is not None and who.role >= Role.ADMIN)
        values = {
            "problem": shown, "request_id": request_id, "near": problem.more.get("near", ()),
            "list": _LISTS.get(problem.code, ""),
        }  # fmt: skip
        page = Html(template="problem.html", title=problem.code.title, values=values, status=int(problem.code.status))
        response = await self._response(request, page, who)
        for name, value in problem.headers.items():
            response.headers[name] = value
        return response

    def _look_of(self, request: Request, who: Principal | None) -> Look:
        scheme = request.cookies.get(SCHEME_COOKIE, "")
        return Look(
            who=who if who is not None and who is not _NOBODY else None,
            path=request.scope["path"],
            query=request.query_params.multi_items(),
            scheme=scheme if scheme in ("light", "dark") else "",
            zone=request.cookies.get(ZONE_COOKIE, "") or self._zone,
            needs_sign_in=self._identity.needs_sign_in,
        )

    def _who_or_nobody(self, request: Request) -> Principal | None:
        try:
            return self._application.known(request, Role.READ, is_change=False)
        except Problem:
            return None

    async def _login_page(self, request: Request) -> Response:
        if self._who_or_nobody(request) is not None:
            return await self._response(request, SeeOther(to=self._next(request.query_params.get("next", ""))), None)
        return await self._login_form(request, request.query_params.get("next", ""))

    async def _login_form(self, request: Request, wanted: str, problem: Problem | None = None) -> Response:
        values = {"next": wanted, "problem": problem}
        status = 200 if problem is None else int(problem.code.status)
        return await self._response(
            request, Html(template="login.html", title="Sign in", values=values, status=status), None
        )

    async def _sign_in(self, request: Request) -> Response:
        request_id = problems.new_request_id()
        wanted = ""
        try:
            guard.require_own_site(request.scope, self._place)
            form = await _form_of(request, _LOGIN_MAX)
            wanted = last(form, "next")
            peer = None if request.client is None else request.client.host
            session = await asyncio.to_thread(self._identity.sign_in, last(form, "token").strip(), peer)
        except Problem as error:
            audit(request, None, "POST /login", int(error.code.status), request_id)
            return await self._login_form(request, wanted, error)
        response = await self._response(request, SeeOther(to=self._next(wanted)), None)
        self._set_cookie(request, response, COOKIE, session.text, is_script_free=True)
        audit(request, None, "POST /login", response.status_code, request_id)
        return response

    async def _sign_out(self, request: Request) -> Response:
        try:
            guard.require_own_site(request.scope, self._place)
        except Problem as error:
            return await self._refused(request, error, problems.new_request_id(), None)
        response = await self._response(request, SeeOther(to=self._url("login")), None)
        response.delete_cookie(COOKIE, path=self._cookie_path, httponly=True, samesite="lax")
        return response

    async def _look(self, request: Request) -> Response:
        """How somebody wants to see the page: kept in his browser."""
        try:
            guard.require_own_site(request.scope, self._place)
            form = await _form_of(request, _LOGIN_MAX)
        except Problem as error:
            return await self._refused(request, error, problems.new_request_id(), None)
        response = await self._response(request, SeeOther(to=self._next(last(form, "next"))), None)
        for field, cookie in (("scheme", SCHEME_COOKIE), ("zone", ZONE_COOKIE)):
            value = last(form, field)
            if value and len(value) < 64 and value.replace("/", "").replace("_", "").replace("-", "").isalnum():
                self._set_cookie(request, response, cookie, value, max_age=_YEAR_SECONDS)
        return response

    def _set_cookie(
        self, request: Request, response: Response, name: str, value: str, *, is_script_free: bool = False,
        max_age: int | None = None,
    ) -> None:  # fmt: skip
        response.set_cookie(
            name, value, max_age=max_age, path=self._cookie_path, secure=self._place.is_encrypted(request.scope),
            httponly=is_script_free, samesite="lax",
        )  # fmt: skip

    @property
    def _cookie_path(self) -> str:
        return f"{self._place.base_path}/"

    def _url(self, *parts: str, query: Mapping[str, str] = {}) -> str:
        return url(self._place.base_path, *parts, query=query)

    def _next(self, wanted: str) -> str:
        """Where to go on: a place of this site, and of no other."""
        base = self._place.base_path
        if base and wanted.startswith(f"{base}/"):
            wanted = wanted[len(base) :]
        is_ours = wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and wanted.isprintable()
        return f"{base}{wanted}" if is_ours and not wanted.startswith("/login") else self._url()

    async def _static(self, request: Request) -> Response:
        found = assets.by_hashed_name().get(request.path_params["name"])
        if found is None:
            return await self.no_page(request)
        return Response(found.data, media_type=found.kind, headers={"Cache-Control": assets.CACHE})

    async def _icon(self, request: Request) -> Response:
        found = assets.assets()["icon.svg"]
        return Response(found.data, media_type=found.kind)


async def _form_of(request: Request, max_bytes: int) -> Sequence[tuple[str, str]]:
    """The fields of a form that was sent. Raises Problem."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    data = await guard.read_body(request.receive, request.scope, max_bytes)
    if data and kind != "application/x-www-form-urlencoded":
        raise Problem(Code.MEDIA, f"expected a form, found {kind or 'none'!r:.80}")
    try:
        return parse_qsl(data.decode(), keep_blank_values=True, max_num_fields=20_000)
    except ValueError as error:
        raise Problem(Code.BODY, "expected a form in UTF-8 with at most 20,000 fields") from error

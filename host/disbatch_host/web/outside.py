"""`/healthz` and `/metrics`, beside the API: for those who watch this server.

Responsible for: these two addresses. Must not know: the table of routes.

Rules:
1. Whether it is well is told to everybody, and asked of the store at most once a second: nobody can tire it with that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from disbatch_host.client import Client
from disbatch_host.errors import DisbatchError, in_words
from disbatch_host.web import problems
from disbatch_host.web.app import Application, problem_response
from disbatch_host.web.figures import MEDIA_TYPE, Labels
from disbatch_host.web.problems import Problem
from disbatch_host.web.role import Role
from disbatch_host.web.shared import Shared

_HEALTH_SECONDS = 1.0  # that an answer holds
_NOTE = "web.health"  # need not be there


def routes(application: Application, shared: Shared) -> list[Route]:
    """To be served outside the API."""
    health = _Health(shared)

    async def healthz(_: Request) -> Response:
        trouble = await health.trouble()
        if trouble is None:
            return PlainTextResponse("ok\n")
        return PlainTextResponse(f"{trouble}\n", status_code=HTTPStatus.SERVICE_UNAVAILABLE)

    async def metrics(request: Request) -> Response:
        try:
            application.known(request, Role.READ, is_change=False)
        except Problem as problem:
            return problem_response(problem, problems.new_request_id())
        return Response(shared.figures.text(_now(shared)), media_type=MEDIA_TYPE)

    return [Route("/healthz", healthz), Route("/metrics", metrics)]


class _Health:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._asked = float("-inf")
        self._trouble: str | None = None

    async def trouble(self) -> str | None:
        """Why the store cannot be read; None: it can."""
        if time.monotonic() - self._asked > _HEALTH_SECONDS:
            self._asked = time.monotonic()
            try:
                await self._shared.pool.run(_read, "web")
                self._trouble = None
            except (DisbatchError, Problem) as error:
                self._trouble = in_words(error)
        return self._trouble


def _read(client: Client) -> None:
    client.store.read_note(_NOTE)


def _now(shared: Shared) -> Iterable[tuple[str, str, Mapping[Labels, float]]]:
    looks = shared.looker.looks
    streams: dict[Labels, float] = {(("kind", kind),): count for kind, count in shared.sending.open.items()}
    last = looks.last
    yield "disbatch_web_streams", "Longer answers under way.", streams
    yield "disbatch_web_followed_tasks", "Tasks that somebody follows.", {(): shared.hub.followed}
    yield "disbatch_web_pool_clients", "Connections to the store that requests share.", {(): shared.pool.size}
    yield "disbatch_web_pool_lent", "Of these, in use.", {(): shared.pool.lent}
    yield "disbatch_web_looks_total", "Looks at the whole cluster, for overviews.", {(): looks.looks}
    yield "disbatch_web_looks_failed_total", "Of these, that failed.", {(): looks.failed}
    yield "disbatch_web_look_seconds", "How long the last one took.", {(): looks.took_seconds}
    if last is not None:
        yield "disbatch_web_look_age_seconds", "How old the last overview is.", {(): last.age_seconds}

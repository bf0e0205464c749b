"""`disbatch-host web`: from settings to a server that answers.

Responsible for: putting the parts together, and what is said at the start. Must not know: options, routes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from disbatch_host import suggested
from disbatch_host.client import Client
from disbatch_host.client.jobs import LEASE_SECONDS
from disbatch_host.errors import UsageError
from disbatch_host.settings.forms import Address
from disbatch_host.web import outside, server
from disbatch_host.web.app import CHANGES_PER_SECOND, Application
from disbatch_host.web.background import Background
from disbatch_host.web.figures import Figures
from disbatch_host.web.guard import Place
from disbatch_host.web.hub import Hub
from disbatch_host.web.identity import Identity, Proxy
from disbatch_host.web.looker import Looker
from disbatch_host.web.pages.site import Site
from disbatch_host.web.pool import ClientPool
from disbatch_host.web.role import Role
from disbatch_host.web.sending import Limits, Sending
from disbatch_host.web.server import HttpServer
from disbatch_host.web.shared import Shared
from disbatch_host.web.spool import BYTES_MAX, Spool
from disbatch_host.web.tokens import TokenFile, Tokens, new_key, new_token
from disbatch_host.web.trials import Trials

log = logging.getLogger(__name__)

CLIENTS = 4  # that are lent to requests; one more looks at everything (`looker`), and one imports (`background`)
OTHERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Everything that a server is told."""

    listen: Address | Path
    place: Place = field(default_factory=Place)
    tokens: TokenFile | None = None
    needs_sign_in: bool = True
    proxy: Proxy | None = None
    changes_per_second: int = CHANGES_PER_SECOND  # by one person
    streams: Limits = field(default_factory=Limits)
    spool: Path | None = None  # for files that are sent; None: none are taken
    upload_max: int = BYTES_MAX  # bytes of one
    time_zone: str = "local"  # of the times that pages show, for people who have not chosen one; or utc
    lease_seconds: float = LEASE_SECONDS  # until another server goes on where this one was killed


def check(settings: WebSettings) -> None:
    """Raises UsageError for a server that others could reach without anybody having allowed them to."""
    if isinstance(settings.listen, Path) or _is_loopback(settings.listen.host):
        return
    if not settings.needs_sign_in:
        raise UsageError("--no-auth is only for a loopback address or a Unix socket, such as 127.0.0.1:8780")
    if settings.tokens is None and settings.proxy is None:
        raise UsageError(
            f"others can reach {settings.listen.host or 'all addresses'}, and there is no file of tokens; "
            f"{suggested.plain_hint('web token add NAME --role read')} makes one"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run(settings: WebSettings, open_client: Callable[[], Client], say: Callable[[str], object]) -> None:
    """Serve until a signal. `say` gets what the person who has started it should read. Raises UsageError,
    StoreError."""
    check(settings)
    _quiet_uvicorn()
    with ExitStack() as stack:
        listening = stack.enter_context(server.bound(settings.listen))
        clients = [stack.enter_context(open_client()) for _ in range(CLIENTS + OTHERS)]
        tokens, once = _tokens(settings)
        asyncio.run(serve(settings, listening, clients, tokens, lambda _: _say_where(settings, listening, once, say)))


def _quiet_uvicorn() -> None:
    """It says what this program says already, in its own words."""
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)


async def serve(
    settings: WebSettings,
    listening: socket.socket,
    clients: Sequence[Client],
    tokens: Callable[[], Tokens] | None,
    on_started: Callable[[HttpServer], None],
) -> None:
    """Serve until a signal comes, or the server that `on_started` gets is stopped. `clients`: `CLIENTS`, and `OTHERS`
    more, which are closed at the end."""
    loop = asyncio.get_running_loop()
    shared = _shared(clients, settings)
    identity = Identity(tokens, settings.proxy)
    application = Application(shared, identity, settings.place, changes_per_second=settings.changes_per_second)
    site = Site(application, shared, identity, settings.place, zone=settings.time_zone)

    def stop() -> None:
        shared.background.stop()
        loop.call_soon_threadsafe(shared.sending.close)

    routes = [*outside.routes(application, shared), *site.routes()]
    http = HttpServer(application.asgi(routes, pages=site), on_stop=stop, on_started=lambda: on_started(http))
    if settings.tokens is not None and threading.current_thread() is threading.main_thread():
        loop.add_signal_handler(signal.SIGHUP, settings.tokens.forget)
    shared.background.start()
    try:
        await http.serve(sockets=[listening])
    finally:
        await shared.close()


def _shared(clients: Sequence[Client], settings: WebSettings) -> Shared:
    *lent, looking, importing = clients
    figures, pool = Figures(), ClientPool(lent)
    hub = Hub(pool, looking.store.watch, figures)
    spool = None if settings.spool is None else Spool(settings.spool, bytes_max=settings.upload_max)
    return Shared(
        pool=pool, looker=Looker(looking), hub=hub, sending=Sending(figures, settings.streams), figures=figures,
        background=Background(pool, importing, spool, lease_seconds=settings.lease_seconds), spool=spool,
        trials=None if spool is None else Trials(spool), lease_seconds=settings.lease_seconds,
    )  # fmt: skip


def _tokens(settings: WebSettings) -> tuple[Callable[[], Tokens] | None, str | None]:
    """What says who may sign in, and the token to be printed, where nobody has made any."""
    if not settings.needs_sign_in:
        return None, None
    if settings.tokens is not None:
        settings.tokens.current()  # one that cannot be used is an error at the start
        return settings.tokens.current, None
    token, text = new_token("admin", Role.ADMIN, now=datetime.now(UTC))
    tokens = Tokens(key=new_key(), tokens=(token,))
    return (lambda: tokens), text


def _say_where(settings: WebSettings, listening: socket.socket, once: str | None, say: Callable[[str], object]) -> None:
    if isinstance(settings.listen, Path):
        say(f"serving on unix:{settings.listen}")
        url = f"http://localhost{settings.place.base_path}"
    else:
        host, port = listening.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}{settings.place.base_path}"
        say(f"serving on {url}/")
    if once is not None:
        lasting = suggested.plain_hint("web token add NAME --role operate")
        say(f"sign in: {url}/login#t={once}")
        say(f"this token works until the server ends, and is not shown again; {lasting} makes one for later starts")
    if not settings.needs_sign_in:
        log.warning("nobody needs to sign in: anyone at this address can run programs as the users of the nodes")

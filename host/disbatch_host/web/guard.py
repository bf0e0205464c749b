"""The outer wall: what is decided about a request before anybody knows what it asks for, and what every answer carries.

Responsible for: the name of this server, the base path, sizes, requests from other sites, headers. Must not know:
routes, people, stores.

Rules:
1. A page of another site must not reach this server by a name of its own (DNS rebinding): `Host` is an address, or
   `localhost`, or a name that was given.
2. A change that a browser sends by itself (a cookie, a proxy) comes from a page of this server: `Sec-Fetch-Site` says
   so, or `Origin` where a browser has no such header. No tokens in forms.
3. Both a proxy that strips the base path and one that keeps it are understood.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from disbatch_host.web.problems import Code, Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = (
    ("content-security-policy", _POLICY),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
)
_HSTS = ("strict-transport-security", "max-age=31536000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this server is, as others see it."""

    base_path: str = ""  # such as /disbatch; no / at its end
    public_urls: Sequence[str] = ()
    cors_origins: Sequence[str] = ()

    def is_host(self, host: str) -> bool:
        """Whether a `Host` header names this server."""
        name = urlsplit(f"//{host}").hostname if host else None
        if name is None:
            return False
        if name == "localhost" or name in {urlsplit(url).hostname for url in self.public_urls}:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def is_own_origin(self, origin: str, host: str) -> bool:
        """Whether a page of this server has this origin."""
        found = urlsplit(origin)
        return found.netloc == host or origin in {_origin_of(url) for url in self.public_urls}


def _origin_of(url: str) -> str:
    found = urlsplit(url)
    return f"{found.scheme}://{found.netloc}"


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of this name, which is in lower case."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


class Guard:
    """Wraps the application."""

    def __init__(self, app: App, place: Place, refuse: Callable[[Scope, Problem], App]) -> None:
        """`refuse` makes the answer of a problem."""
        self._app = app
        self._place = place
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = header(scope, b"host") or ""
        scope = {**scope, **self._without_base(scope)}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = list(self._headers(scope, message.get("headers", ())))
            await send(message)

        if not self._place.is_host(host):
            problem = Problem(Code.HOST, f"expected the address of this server or a --public-url, found {host!r:.100}")
            await self._refuse(scope, problem)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _without_base(self, scope: Scope) -> Scope:
        base, path = self._place.base_path, scope["path"]
        if base and (path == base or path.startswith(f"{base}/")):
            raw = scope.get("raw_path") or path.encode()
            return {"path": path[len(base) :] or "/", "raw_path": raw[len(base.encode()) :] or b"/"}
        return {}

    def _headers(self, scope: Scope, given: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
        names = set()
        for name, value in given:
            names.add(name.lower())
            yield name, value
        is_encrypted = scope.get("scheme") == "https" or header(scope, b"x-forwarded-proto") == "https"
        for name, value in (*_HEADERS, *((_HSTS,) if is_encrypted else ())):
            if name.encode() not in names:
                yield name.encode(), value.encode()
        if b"cache-control" not in names:
            yield b"cache-control", b"no-store"
        origin = header(scope, b"origin")
        if origin is not None and origin in self._place.cors_origins and header(scope, b"cookie") is None:
            yield b"access-control-allow-origin", origin.encode()
            yield b"vary", b"Origin"


def require_own_site(scope: Scope, place: Place) -> None:
    """For a change by somebody whom a browser signs in by itself. Raises Problem."""
    site = header(scope, b"sec-fetch-site")
    origin = header(scope, b"origin")
    host = header(scope, b"host") or ""
    if site is not None:
        is_own = site in ("same-origin", "none")
    else:
        is_own = origin is not None and place.is_own_origin(origin, host)
    if not is_own:
        found = f"Sec-Fetch-Site {site}" if site is not None else f"Origin {origin or 'missing'}"
        raise Problem(Code.CROSS_SITE, f"expected a request of a page of this server, found {found:.200}")


async def read_body(receive: Receive, scope: Scope, max_bytes: int) -> bytes:
    """The whole body. Raises Problem if it is too large; no more of it is read then."""
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _too_large(max_bytes: int) -> Problem:
    return Problem(Code.TOO_LARGE, f"expected a body of at most {max_bytes:,} bytes")

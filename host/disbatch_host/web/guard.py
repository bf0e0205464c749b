"""The outer wall: what is decided about a request before anybody knows what it asks for, and what every answer carries.

Responsible for: the name of this server, the base path, sizes, requests from other sites, headers. Must not know:
routes, people, stores.

Rules:
1. A page of another site must not reach this server by a name of its own (DNS rebinding): `Host` is an address, or
   `localhost`, or a name that was given.
2. A change that a browser sends by itself (a cookie, a proxy) comes from a page of this server: `Sec-Fetch-Site` says
   so, or `Origin` where a browser has no such header. No tokens in forms.
3. Both a proxy that strips the base path and one that keeps it are understood. What is behind this sees the path in
   one spelling, with its segments quoted (`paths`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from disbatch_host.web import paths
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
# For pages of `--cors-origin`, which have a token; nothing is said of credentials, so a browser sends no cookie.
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, Content-Disposition, If-Match, If-None-Match, Idempotency-Key, Range",
    ),
    (b"access-control-max-age", b"600"),
)
_EXPOSED = b"ETag, Link, Location, Retry-After, Content-Disposition, Content-Range, X-Attempt"
HEADER_BYTES = 16 * 1024
_FIELD_BYTES = len(": \r\n")
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_HSTS = ("strict-transport-security", "max-age=31536000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this server is, as others see it."""

    base_path: str = ""  # such as /disbatch; no / at its end
    public_urls: Sequence[str] = ()
    cors_origins: Sequence[str] = ()

    def is_host(self, host: str) -> bool:
        """Whether a `Host` header names this server."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found["name"].lower()
        if name == "localhost" or name in {urlsplit(url).hostname for url in self.public_urls}:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def is_own_origin(self, origin: str, host: str) -> bool:
        """Whether a page of this server has this origin."""
        own = {f"http://{host}", f"https://{host}", *map(_origin_of, self.public_urls)}
        return origin.lower() in {one.lower() for one in own}

    def is_encrypted(self, scope: Scope) -> bool:
        """Whether the browser speaks TLS, to a proxy: the proxy says so, or the only address that was given does."""
        said = header(scope, b"x-forwarded-proto")
        if said is not None:
            return said.partition(",")[0].strip().lower() == "https"
        found = _HOST.fullmatch(header(scope, b"host") or "")
        name = "" if found is None else found["name"].lower()
        schemes = {one.scheme for one in map(urlsplit, self.public_urls) if one.hostname == name}
        return scope.get("scheme") == "https" or schemes == {"https"}


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

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = list(self._headers(scope, message.get("headers", ())))
            await send(message)

        raw = scope["raw_path"]
        path = paths.below(self._place.base_path, paths.canonical(raw, "replace"))
        scope = {**scope, "path": path, "raw_path": path.encode()}
        if not self._place.is_host(host):
            problem = Problem(Code.HOST, f"expected the address of this server or a --public-url, found {host!r:.100}")
            await self._refuse(scope, problem)(scope, receive, send_with_headers)
        elif sum(len(name) + len(value) + _FIELD_BYTES for name, value in scope["headers"]) > HEADER_BYTES:
            problem = Problem(Code.HEADER, f"expected a header of at most {HEADER_BYTES:,} bytes")
            await self._refuse(scope, problem)(scope, receive, send_with_headers)
        elif not paths.is_text(raw):
            problem = Problem(Code.ROUTE, "expected a path in UTF-8")
            await self._refuse(scope, problem)(scope, receive, send_with_headers)
        elif scope["method"] == "OPTIONS" and self._is_preflight(scope):
            answer = {"type": "http.response.start", "status": HTTPStatus.NO_CONTENT, "headers": list(_PREFLIGHT)}
            await send_with_headers(answer)
            await send({"type": "http.response.body"})
        else:
            await self._app(scope, receive, send_with_headers)

    def _is_preflight(self, scope: Scope) -> bool:
        """Whether a browser asks if a page of another site may ask."""
        is_asked = header(scope, b"access-control-request-method") is not None
        return is_asked and header(scope, b"origin") in self._place.cors_origins

    def _headers(self, scope: Scope, given: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
        names = set()
        for name, value in given:
            names.add(name.lower())
            yield name, value
        for name, value in (*_HEADERS, *((_HSTS,) if self._place.is_encrypted(scope) else ())):
            if name.encode() not in names:
                yield name.encode(), value.encode()
        if b"cache-control" not in names:
            yield b"cache-control", b"no-store"
        origin = header(scope, b"origin")
        if origin is not None and origin in self._place.cors_origins and header(scope, b"cookie") is None:
            yield b"access-control-allow-origin", origin.encode()
            yield b"access-control-expose-headers", _EXPOSED
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

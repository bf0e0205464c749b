"""Who asks: a token in a header, a session in a cookie, or a user that a proxy names.

Responsible for: telling who sent a request, and making sessions. Must not know: what the request is for.

Rules:
1. A session is signed, not kept: it names its token, and ends with it. Removing a token ends its sessions at once.
2. A proxy is known by the peer of the connection, never by a header. Its header from any other peer is an error: a
   proxy that is set up wrong must not go unnoticed.
3. Wrong tokens are counted for each peer, and cost time.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from disbatch_host import suggested
from disbatch_host.errors import UsageError
from disbatch_host.web.limits import Rate
from disbatch_host.web.principal import Principal
from disbatch_host.web.problems import Code, Problem
from disbatch_host.web.role import Role
from disbatch_host.web.tokens import Token, Tokens

COOKIE = "dsb_session"
PROXY_SECRET = "x-disbatch-secret"
SESSION_SECONDS = 12 * 3600
_WRONG_PER_MINUTE = 10
_MINUTE = 60.0
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="disbatch"'}
_MAKE_ONE = suggested.plain_hint("web token add NAME --role read")
_BEARER = "bearer "

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy that has signed people in."""

    header: str  # in lower case
    networks: Sequence[Network] = ()
    is_local: bool = False  # connections to the Unix socket are its own
    secret: str | None = None  # which it also sends, where others could connect from its address
    role: Role | None = Role.READ  # of everybody; None: of nobody but the members of groups
    groups_header: str | None = None  # in lower case
    groups: Mapping[str, Role] = field(default_factory=dict)

    def is_peer(self, peer: str | None) -> bool:
        """`peer`: its address, None over a Unix socket."""
        if peer is None:
            return self.is_local
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self.networks)

    def knows_secret(self, given: str) -> bool:
        return self.secret is None or hmac.compare_digest(given.encode(), self.secret.encode())

    def role_of(self, groups: str) -> Role | None:
        """The highest that somebody in these groups has; None: none."""
        found = [self.groups[one] for one in map(str.strip, groups.split(",")) if one in self.groups]
        return max([*found, *(() if self.role is None else (self.role,))], default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A signed one."""

    text: str
    expires: datetime


class Identity:
    """Knows people. `tokens` says which there are now; None: nobody needs to sign in."""

    def __init__(self, tokens: Callable[[], Tokens] | None, proxy: Proxy | None = None) -> None:
        self._tokens = tokens
        self._proxy = proxy
        self._wrong = Rate(_WRONG_PER_MINUTE, _MINUTE)

    @property
    def needs_sign_in(self) -> bool:
        return self._tokens is not None

    def of(
        self, headers: Mapping[str, str], cookie: str | None, peer: str | None, *, is_again: bool = False
    ) -> Principal | None:
        """Who sent these headers (names in lower case); None: nobody that is known. Raises Problem for a token that is
        wrong, and for a header that only a proxy may send. `is_again`: they were valid when this request came, and it
        goes on; a token that is none any more is not counted as a wrong one."""
        if self._proxy is not None and (user := headers.get(self._proxy.header)) is not None:
            if not self._proxy.is_peer(peer):
                raise Problem(Code.PROXY, f"{self._proxy.header} is taken from the proxy only; is --proxy-from right?")
            if not self._proxy.knows_secret(headers.get(PROXY_SECRET, "")):
                raise Problem(Code.PROXY, f"{self._proxy.header} is taken only with the secret of the proxy")
            if user:
                return self._of_proxy(self._proxy, _name(user), headers)
        if self._tokens is None:
            return Principal(name="anyone", role=Role.ADMIN, is_of_browser=True)
        authorization = headers.get("authorization", "")
        if authorization[: len(_BEARER)].lower() == _BEARER:
            return self.of_token(authorization[len(_BEARER) :].strip(), peer, is_again=is_again)
        return None if cookie is None else self._of_session(cookie)

    def _of_proxy(self, proxy: Proxy, name: str, headers: Mapping[str, str]) -> Principal:
        role = proxy.role_of("" if proxy.groups_header is None else headers.get(proxy.groups_header, ""))
        if role is None:
            raise Problem(Code.ROLE, f"{name} is in no group that has a role here; --proxy-group gives one")
        return Principal(name=name, role=role, is_of_browser=True)

    def of_token(self, text: str, peer: str | None, *, is_again: bool = False) -> Principal:
        """Raises Problem unless it is a valid token."""
        token = self._token(text, peer, is_again=is_again)
        return _principal(token, token.expires)

    def sign_in(self, text: str, peer: str | None) -> Session:
        """A session for a token. Raises Problem unless it is a valid one."""
        token = self._token(text, peer)
        expires = datetime.now(UTC) + timedelta(seconds=SESSION_SECONDS)
        expires = expires if token.expires is None else min(expires, token.expires)
        head = f"{token.id}.{int(expires.timestamp())}"
        return Session(text=f"{head}.{self._signature(head)}", expires=expires)

    def _token(self, text: str, peer: str | None, *, is_again: bool = False) -> Token:
        who = peer or "local"
        if not is_again and (seconds := self._wrong.seconds_left(who)) > 0:
            raise Problem(
                Code.TOO_MANY, f"too many wrong tokens from here; try again in {seconds:.0f} s",
                headers={"Retry-After": f"{seconds:.0f}"},
            )  # fmt: skip
        found = self._known().of_secret(text)
        if found is None or not found.is_valid(datetime.now(UTC)):
            if not is_again:
                self._wrong.count(who)
            what = "the token is not known here" if found is None else "the token has expired"
            raise Problem(Code.UNAUTHENTICATED, f"{what}; {_MAKE_ONE} makes one", headers=_CHALLENGE)
        return found

    def _of_session(self, cookie: str) -> Principal | None:
        head, _, signature = cookie.rpartition(".")
        token_id, _, until = head.partition(".")
        if not until.isdigit() or not hmac.compare_digest(signature.encode(), self._signature(head).encode()):
            return None
        found = self._known().get(token_id)
        if found is None or time.time() >= int(until) or not found.is_valid(datetime.now(UTC)):
            return None
        return _principal(found, datetime.fromtimestamp(int(until), UTC), is_of_browser=True)

    def _signature(self, head: str) -> str:
        return hmac.new(self._known().key, head.encode(), hashlib.sha256).hexdigest()

    def _known(self) -> Tokens:
        assert self._tokens is not None
        try:
            return self._tokens()
        except UsageError as error:
            raise Problem(Code.UNAUTHENTICATED, str(error), headers=_CHALLENGE) from error


def unauthenticated() -> Problem:
    """For a request that needs somebody to be signed in."""
    detail = f"expected a token (Authorization: Bearer dsb_…), or a session of the page; {_MAKE_ONE} makes one"
    return Problem(Code.UNAUTHENTICATED, detail, headers=_CHALLENGE)


def _principal(token: Token, expires: datetime | None, *, is_of_browser: bool = False) -> Principal:
    queues = frozenset(token.queues) or None
    return Principal(name=token.name, role=token.role, queues=queues, expires=expires, is_of_browser=is_of_browser)


def _name(user: str) -> str:
    """A name from a proxy, as logs and documents can show it."""
    return "".join(one for one in user if one.isprintable() and one not in "@ ")[:64] or "somebody"

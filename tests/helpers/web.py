"""A server of the page and the API, and somebody who asks it.

Responsible for: starting one, in a thread of this process, on a free port; and requests by the standard library alone.
Must not know: what is tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from disbatch_host.client import Client
from disbatch_host.settings.forms import Address
from disbatch_host.web import running, server
from disbatch_host.web.role import Role
from disbatch_host.web.running import WebSettings
from disbatch_host.web.server import HttpServer
from disbatch_host.web.tokens import Tokens, new_key, new_token

ROLES = ("read", "operate", "admin")


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int
    headers: Mapping[str, str]  # by names in lower case
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def text(self) -> str:
        return self.data.decode()

    @property
    def code(self) -> str:
        """Of a problem."""
        assert self.headers["content-type"] == "application/problem+json", self
        return str(self.json["type"]).removeprefix("urn:disbatch:problem:")


@dataclass(frozen=True, kw_only=True)
class Web:
    """A running server."""

    port: int
    tokens: Mapping[str, str]  # by role
    base: str = "/api/v1"
    sign_out: Callable[[str], None] = lambda role: None  # remove its token
    let_expire: Callable[[str, float], None] = lambda role, seconds: None  # its token, so many seconds from now
    known: Tokens | None = None  # the tokens that it has begun with

    def ask(
        self, method: str, path: str, body: Any = None, *, role: str | None = "admin", headers: Mapping[str, str] = {},
        base: str | None = None,
    ) -> Reply:  # fmt: skip
        """`body`: bytes as they are, all else as JSON. `role`: with the token of that role; None: with none."""
        given = dict(headers)
        if role is not None:
            given.setdefault("Authorization", f"Bearer {self.tokens[role]}")
        data = body
        if body is not None and not isinstance(body, bytes):
            data = json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, f"{self.base if base is None else base}{path}", data, given)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            data = response.read() if not _is_stream(response) else first_event(response)
            return Reply(status=response.status, headers=named, data=data)

    def get(self, path: str, **more: Any) -> Reply:
        return self.ask("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> Reply:
        return self.ask("POST", path, body, **more)

    @contextlib.contextmanager
    def follow(self, path: str, *, role: str = "admin", headers: Mapping[str, str] = {}) -> Iterator[Following]:
        """A stream of events."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            given = {"Authorization": f"Bearer {self.tokens[role]}", **headers}
            connection.request("GET", f"{self.base}{path}", headers=given)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            with contextlib.closing(response):
                yield Following(response)


@dataclass(frozen=True, kw_only=True)
class Event:
    name: str
    data: Any
    id: str | None


class Following:
    """Reads events, one after another."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.lines: list[bytes] = []  # all that were read

    def next(self) -> Event | None:
        """None: the stream has ended."""
        fields: dict[str, str] = {}
        while line := self._response.readline():
            self.lines.append(line)
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if line == b"\n" and "event" in fields:
                return Event(name=fields["event"], data=json.loads(fields["data"]), id=fields.get("id"))
            fields[name] = value
        return None

    def until(self, name: str) -> list[Event]:
        """All up to the next one of this name."""
        found = []
        while one := self.next():
            found.append(one)
            if one.name == name:
                return found
        raise AssertionError(f"the stream has ended without {name}: {found}")

    def text(self, size: int, stream: str = "stdout") -> str:
        """At least so many bytes of a stream, the next ones; each has to follow the one before."""
        found, offset = "", None
        while len(found.encode()) < size:
            one = self.next()
            assert one is not None and one.name != "gap", one
            if one.name == stream:
                assert offset is None or one.data["offset"] == offset
                found += one.data["text"]
                offset = one.data["offset"] + len(one.data["text"].encode())
        return found


def _is_stream(response: http.client.HTTPResponse) -> bool:
    return response.headers.get_content_type() == "text/event-stream"


def first_event(response: http.client.HTTPResponse) -> bytes:
    """Of a stream, which has no end."""
    lines = []
    while (line := response.readline()) and not (line == b"\n" and any(one.startswith(b"event:") for one in lines)):
        lines.append(line)
    return b"".join(lines)


@contextlib.contextmanager
def serving(
    url: str,
    plugins: Sequence[Path] = (),
    *,
    bound_to: Mapping[str, Sequence[str]] = {},
    like: Web | None = None,
    **settings: Any,
) -> Iterator[Web]:
    """A server of a store, with a token for each role. `bound_to`: further tokens, by name, that see these queues
    alone and have the role operate. `like`: one that has ended, whose address and tokens this one has."""
    now = datetime.now(UTC)
    made = {name: new_token(name, Role[name.upper()], now=now) for name in ROLES}
    made |= {name: new_token(name, Role.OPERATE, queues=queues, now=now) for name, queues in bound_to.items()}
    tokens = {"now": Tokens(key=new_key(), tokens=tuple(token for token, _ in made.values()))}
    if like is not None and like.known is not None:
        tokens["now"] = like.known
    ids = {name: one.id for name, one in zip(made, tokens["now"].tokens, strict=True)}

    def sign_out(role: str) -> None:
        left = tuple(one for one in tokens["now"].tokens if one.id != ids[role])
        tokens["now"] = replace(tokens["now"], tokens=left)

    def let_expire(role: str, seconds: float) -> None:
        expires = datetime.now(UTC) + timedelta(seconds=seconds)
        changed = (replace(one, expires=expires) if one.id == ids[role] else one for one in tokens["now"].tokens)
        tokens["now"] = replace(tokens["now"], tokens=tuple(changed))

    started, servers = threading.Event(), list[HttpServer]()
    with ExitStack() as stack:
        spool = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="disbatch-web-")))
        own = {"listen": Address("127.0.0.1", 0 if like is None else like.port), "changes_per_second": 10_000}
        whole = WebSettings(**{**own, "spool": spool, **settings})
        listening = stack.enter_context(server.bound(whole.listen))
        clients = [
            stack.enter_context(Client.open(url, plugins=plugins, by="web"))
            for _ in range(running.CLIENTS + running.OTHERS)
        ]

        def on_started(one: HttpServer) -> None:
            servers.append(one)
            started.set()

        def serve() -> None:
            asyncio.run(running.serve(whole, listening, clients, lambda: tokens["now"], on_started))

        thread = threading.Thread(target=serve, name="web", daemon=True)
        thread.start()
        try:
            assert started.wait(30), "the server did not start"
            texts = {name: text for name, (_, text) in made.items()} if like is None else like.tokens
            port = 0 if isinstance(whole.listen, Path) else listening.getsockname()[1]
            yield Web(
                port=port, tokens=texts, sign_out=sign_out, let_expire=let_expire, known=tokens["now"]
            )  # fmt: skip
        finally:
            if servers:
                servers[0].stop()
            thread.join(30)
        assert not thread.is_alive(), "the server did not stop"

"""Behind a real nginx and a real Caddy, set up as docs/web.md says, with their own buffering as it is."""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from client.documents import put_task
from disbatch_host.client import Client
from disbatch_host.web.guard import Place
from helpers import proxies, web
from helpers.browsing import Page, Visitor
from helpers.printing import Printing
from helpers.web import Web

BASE = "/disbatch"


@pytest.fixture(scope="module")
def living_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a proxy does has nothing to do with the kind of store."""
    return f"sqlite://{tmp_path_factory.mktemp('web')}/test.db"


@dataclass(frozen=True)
class Behind:
    """A proxy, and the server behind it."""

    web: Web  # through the proxy
    visitor: Visitor
    kind: str


@pytest.fixture(scope="module")
def direct(living_url: str, client: Client, plugins: Path) -> Iterator[Web]:
    client.queues.create("mail", "Greet")
    with web.serving(living_url, [plugins], place=Place(base_path=BASE)) as one:
        yield one


@pytest.fixture(scope="module", params=proxies.KINDS)
def behind(request: pytest.FixtureRequest, direct: Web, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    with proxies.proxy(request.param, tmp_path_factory.mktemp("proxy"), direct.port) as port:
        through = replace(direct, port=port, base=f"{BASE}/api/v1")
        visitor = Visitor(through, base=BASE)
        assert visitor.sign_in("admin").status == 200
        yield Behind(through, visitor, request.param)


def test_what_the_page_shows_leaves_buffering_as_it_is() -> None:
    blocks = [proxies.block_of(kind) for kind in proxies.KINDS]
    assert len(set(blocks)) == 4 and not any(re.search("buffering|flush", one) for one in blocks)


def test_signing_in_leads_where_it_should_and_the_cookie_is_of_its_path(behind: Behind) -> None:
    visitor = Visitor(behind.web, base=BASE)
    asked = visitor.get(f"{BASE}/tasks?queue=mail")
    assert (asked.status, asked.headers["location"]) == (303, f"{BASE}/login?next=%2Ftasks%3Fqueue%3Dmail")
    signed = visitor.post(f"{BASE}/login", [("token", behind.web.tokens["read"]), ("next", "/tasks?queue=mail")])
    assert (signed.status, signed.headers["location"]) == (303, f"{BASE}/tasks?queue=mail")
    cookie = signed.headers["set-cookie"]
    assert f"Path={BASE}/;" in cookie and "Secure" not in cookie
    assert visitor.follow(signed).status == 200
    assert visitor.get(BASE).status in (301, 302, 303, 308) and visitor.get(f"{BASE}/").status == 200
    away = visitor.get(f"{BASE}/queues/")
    assert away.headers["location"] == f"{BASE}/queues"


def test_every_link_and_file_comes_through(behind: Behind) -> None:
    page = behind.visitor.page(f"{BASE}/queues/mail")
    for link in page.links:
        assert link.startswith((f"{BASE}/", "#")), link
    for link in (one for one in page.links if "/static/" in one):
        assert behind.visitor.get(link).headers["cache-control"].startswith("public, max-age=31536000"), link
    missing = behind.visitor.get(f"{BASE}/nothing")
    assert missing.status == 404 and "text/html" in missing.headers["content-type"]
    policy = behind.visitor.get(f"{BASE}/").headers
    assert "default-src 'none'" in policy["content-security-policy"] and "strict-transport-security" not in policy


def test_a_task_is_pushed_by_its_form(behind: Behind, client: Client) -> None:
    pushed = behind.visitor.send(f"{BASE}/queues/mail/push", "/push", **{"/user": "ann"})
    assert pushed.status == 200 and "created" in pushed.text
    api = behind.web.post("/queues/mail/tasks", {"parameters": {"user": "bob"}})
    assert api.status == 201 and api.headers["location"].startswith(f"{BASE}/api/v1/tasks/")
    assert behind.web.get(api.headers["location"], base="").json["parameters"] == {"user": "bob"}
    refused = behind.visitor.post(
        f"{BASE}/queues/mail/push",
        [("/user", "eve")],
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    )
    assert refused.status == 403


def test_what_a_run_prints_passes_at_once(behind: Behind, client: Client) -> None:
    """One line, and nothing after it that could push it out of a buffer."""
    queue = f"prints-{behind.kind}"
    client.queues.create(queue, "Greet")
    run = Printing(client, client.push(queue, {"user": "x"}).id).begin()
    run.prints(b"before\n")
    with behind.web.follow(f"/tasks/{run.id}/events?streams=stdout", headers={"Accept": "text/event-stream"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert "before" in stream.text(7)
        for number in range(3):
            run.prints(b"line %d\n" % number)
            assert stream.text(7) == f"line {number}\n"
    with behind.web.follow("/overview/events") as stream:
        stream.until("overview")


def test_a_large_file_passes_both_ways(behind: Behind, client: Client) -> None:
    rows = b"user\n" + b"".join(b"user%06d\n" % n for n in range(300_000))  # more than nginx takes by itself
    assert len(rows) > 2 * 2**20
    kept = behind.web.post("/uploads", rows, headers={"Content-Type": "text/csv"})
    assert (kept.status, kept.json["bytes"]) == (201, len(rows)), kept.text
    task = put_task(client.store, "mail", status=1, stdout="x" * 2**19)
    part = behind.web.get(f"/tasks/{task}/output/stdout", headers={"Range": "bytes=-100"})
    assert (part.status, part.text) == (206, "x" * 100)


@pytest.mark.parametrize("name", ["a/b", "märz ✓", "a%2Fb", "a b", "50%", "a?b#c", "x/../y"])
def test_names_in_addresses_come_through(behind: Behind, client: Client, name: str) -> None:
    if client.store.find_queue(name) is None:
        client.store.insert_queue({"_id": name, "class": "Greet", "ctime": client.store.now()})
    path = f"/queues/{quote(name, safe='')}"
    if behind.kind == "nginx, stripped" and ".." in name:  # a step upwards for it, as docs/web.md says
        assert behind.web.get(path).status == 404
        return
    assert behind.web.get(path).json["_id"] == name
    assert behind.web.post(f"{path}/pause", {}).status == 200 and client.queues.get(name).paused is not None
    assert behind.visitor.send(f"{BASE}{path}", f"{path}/resume").status == 200
    assert client.queues.get(name).paused is None


def test_over_tls_the_cookie_is_for_tls_alone(direct: Web, tmp_path: Path) -> None:
    certificate = proxies.certificate_for(tmp_path)
    with proxies.proxy("nginx, kept", tmp_path / "tls", direct.port, certificate=certificate) as port:
        context = ssl.create_default_context(cafile=str(certificate))
        context.check_hostname = False
        headers = _encrypted(port, context, "GET", f"{BASE}/login", {})
        assert headers["strict-transport-security"] == "max-age=31536000"
        form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"https://127.0.0.1:{port}"}
        body = f"token={direct.tokens['read']}"
        signed = _encrypted(port, context, "POST", f"{BASE}/login", form, body)
        assert signed["location"] == f"{BASE}/" and "Secure" in signed["set-cookie"]


def _encrypted(
    port: int, context: ssl.SSLContext, method: str, path: str, headers: Any, body: str | None = None
) -> dict[str, str]:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        return {name.lower(): value for name, value in response.getheaders()}


def test_the_page_of_a_proxy_has_no_link_out_of_its_path(behind: Behind) -> None:
    for address in ("/", "/queues", "/tasks", "/failures", "/nodes", "/plugins", "/operations", "/batches", "/keys"):
        reply = behind.visitor.follow(behind.visitor.get(f"{BASE}{address}"))
        assert reply.status == 200, address
        links = [one for one in Page(reply.text).links if not one.startswith("#")]
        assert [one for one in links if not one.startswith(f"{BASE}/")] == [], address

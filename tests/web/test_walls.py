"""Who gets in, and what is turned away before anybody knows what it asks for: sessions, other sites, names, proxies."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from disbatch_host.client import Client
from disbatch_host.web.guard import Place
from disbatch_host.web.identity import COOKIE, SESSION_SECONDS, Proxy
from disbatch_host.web.role import Role
from helpers import web
from helpers.browsing import Visitor
from helpers.processes import wait_until
from helpers.web import Reply, Web

PUBLIC = "https://jobs.example.org"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def living_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Nothing of this asks the store."""
    return f"sqlite://{tmp_path_factory.mktemp('web')}/test.db"


@pytest.fixture(scope="module")
def walled(living_url: str, client: Client) -> Iterator[Web]:
    client.queues.create("mail", "Greet")
    place = Place(public_urls=[PUBLIC, "http://plain.example.org:8080"], cors_origins=["https://board.example.org"])
    with web.serving(living_url, place=place) as one:
        yield one


# Sessions


def signed_in(server: Web, role: str = "read") -> Visitor:
    visitor = Visitor(server)
    assert visitor.sign_in(role).status == 200
    return visitor


def with_session(server: Web, cookie: str, path: str = "/api/v1/queues") -> Reply:
    return server.get(path, base="", role=None, headers={"Cookie": f"{COOKIE}={cookie}"})


def test_a_session_is_good_for_twelve_hours_on_page_and_api(walled: Web) -> None:
    cookie = signed_in(walled).cookies[COOKIE]
    assert with_session(walled, cookie).status == 200 and with_session(walled, cookie, "/queues").status == 200
    until = int(cookie.split(".")[1])
    assert SESSION_SECONDS == 12 * 3600 and abs(until - time.time() - SESSION_SECONDS) < 120
    me = with_session(walled, cookie, "/api/v1/me").json
    assert (me["principal"], me["role"]) == ("read", "read") and me["expires"] is not None


def test_a_session_that_was_changed_is_none(walled: Web) -> None:
    token_id, until, signature = signed_in(walled).cookies[COOKIE].split(".")
    other_id = signed_in(walled, "admin").cookies[COOKIE].split(".")[0]
    for cookie in (
        f"{token_id}.{int(until) + 1}.{signature}", f"{other_id}.{until}.{signature}", f"{token_id}.{until}.",
        f"{token_id}.{until}.{'0' * 64}", f"{token_id}..{signature}", "", "...", "x" * 8000, f"{token_id}.{until}.é",
    ):  # fmt: skip
        reply = with_session(walled, cookie.encode().decode("latin-1"))
        assert (reply.status, reply.code) == (401, "unauthenticated"), cookie


def test_a_session_of_another_file_of_tokens_is_none(walled: Web, living_url: str) -> None:
    with web.serving(living_url) as other:
        assert with_session(walled, signed_in(other).cookies[COOKIE]).status == 401


def test_a_removed_token_is_a_dead_session_at_the_next_request(living_url: str, client: Client) -> None:
    with web.serving(living_url) as server:
        reader, admin = signed_in(server), signed_in(server, "admin")
        assert reader.get("/queues").status == 200
        server.sign_out("read")
        gone = reader.get("/queues?live=off")
        assert (gone.status, gone.headers["location"]) == (303, "/login?next=%2Fqueues%3Flive%3Doff")
        assert with_session(server, reader.cookies[COOKIE]).code == "unauthenticated"
        refused = reader.post("/tasks/act", [("action", "cancel")])
        assert (refused.status, refused.headers["location"]) == (303, "/login?next=%2F"), "a form is not sent again"
        assert admin.get("/queues").status == 200


def test_a_session_ends_with_its_token(living_url: str, client: Client) -> None:
    with web.serving(living_url) as server:
        server.let_expire("read", 4)
        reader = signed_in(server)
        assert int(reader.cookies[COOKIE].split(".")[1]) <= time.time() + 4
        wait_until(lambda: reader.get("/queues").status == 303, 30, "the session goes on")
        token = {"token": server.tokens["read"]}
        wait_until(lambda: reader.send("/login", "/login", **token).status == 401, 30, "the token goes on")
        late = reader.send("/login", "/login", **token)
        assert late.status == 401 and "the token has expired" in late.text and server.tokens["read"] not in late.text


def test_signing_out_takes_the_cookie_away(walled: Web) -> None:
    visitor = signed_in(walled)
    reply = visitor.post("/logout", [])
    gone = reply.headers["set-cookie"].lower()
    assert reply.status == 303 and gone.startswith(f'{COOKIE}=""') and "max-age=0" in gone and "path=/;" in gone


def test_wrong_tokens_cost_time_and_right_ones_too_then(living_url: str, client: Client) -> None:
    with web.serving(living_url) as server:
        visitor = Visitor(server)
        statuses = [visitor.send("/login", "/login", token=f"dsb_wrong_{n}").status for n in range(11)]
        assert statuses == [401] * 10 + [429]
        late = visitor.post("/login", [("token", server.tokens["read"]), ("next", "/queues")])
        assert late.status == 429 and "too many wrong tokens" in late.text
        assert (
            0
            < int(server.get("/queues", role=None, headers={"Authorization": "Bearer x"}).headers["retry-after"])
            <= 60
        )


# Other sites

SITES = [
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": PUBLIC}, False),
    ({"Sec-Fetch-Site": ""}, False),
    ({"Origin": PUBLIC}, True),
    ({"Origin": "http://plain.example.org:8080"}, True),
    ({"Origin": "http://plain.example.org"}, False),
    ({"Origin": "OWN"}, True),
    ({"Origin": "null"}, False),
    ({"Origin": "https://evil.example"}, False),
    ({"Origin": f"{PUBLIC}.evil.example"}, False),
    ({"Origin": "http://["}, False),
    ({"Origin": ""}, False),
    ({}, False),
]


@pytest.mark.parametrize(("headers", "is_own"), SITES, ids=str)
def test_a_change_that_a_browser_signs_comes_from_a_page_of_this_server(
    walled: Web, headers: Mapping[str, str], is_own: bool
) -> None:
    own = {name: value.replace("OWN", f"http://127.0.0.1:{walled.port}") for name, value in headers.items()}
    visitor = signed_in(walled, "admin")
    for path, body, kind in (
        ("/api/v1/queues/mail/pause", b"{}", {"Content-Type": "application/json"}),
        ("/queues/mail/resume", b"", FORM),
        ("/look", b"scheme=dark", FORM),
    ):
        cookie = {"Cookie": f"{COOKIE}={visitor.cookies[COOKIE]}"}
        reply = walled.post(path, body, base="", role=None, headers={**cookie, **kind, **own})
        assert (reply.status in (200, 303)) == is_own, (path, reply.status)
        assert is_own or reply.status == 403
        if path.startswith("/api"):  # a token is no browser's own doing
            assert walled.post(path, body, base="", headers={**kind, **own}).status == 200


def test_a_page_says_no_referrer_where_a_browser_says_enough_without(walled: Web) -> None:
    """Else the `Origin` of its forms would be `null`, and nothing would tell them from another site's."""
    visitor = signed_in(walled)
    cookie = {"Cookie": f"{COOKIE}={visitor.cookies[COOKIE]}"}
    for site in ("none", "same-origin", "cross-site"):
        reply = walled.get("/queues", base="", role=None, headers={**cookie, "Sec-Fetch-Site": site})
        assert reply.headers["referrer-policy"] == "no-referrer"
    assert walled.get("/queues", base="", role=None, headers=cookie).headers["referrer-policy"] == "same-origin"
    assert walled.get("/queues").headers["referrer-policy"] == "no-referrer"


# Names of this server

OURS = [
    "localhost",
    "LOCALHOST:1",
    "127.0.0.1",
    "[::1]:80",
    "10.1.2.3:8780",
    "jobs.example.org",
    "Jobs.Example.Org:443",
]
NOT_OURS = [
    "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example:127", "[::1", "[::1]x", "",
    "127.0.0.1/evil", "evil@127.0.0.1", "127.0.0.1:x", "127.0.0.1:80:80", "jobs.example.org.", "example.org", "[]",
    ":80", "0x7f.1", "127.1", "jobs.example.org evil", "local\thost",
]  # fmt: skip


@pytest.mark.parametrize("host", OURS)
def test_these_are_names_of_this_server(walled: Web, host: str) -> None:
    assert walled.get("/queues", headers={"Host": host}).status == 200


@pytest.mark.parametrize("host", NOT_OURS)
def test_a_name_of_another_site_leads_nowhere(walled: Web, host: str) -> None:
    for path in ("/api/v1/queues", "/queues", "/login", "/healthz", "/static/app.css"):
        reply = walled.get(path, base="", headers={"Host": host})
        assert reply.status == 421, (path, reply.text)
        assert "admin" not in reply.text and ("expected the address of this server" in reply.text)
    assert signed_in(walled).get("/queues").status == 200


# A proxy that signs people in


@pytest.fixture(scope="module")
def behind(living_url: str, client: Client) -> Iterator[Web]:
    networks = [ipaddress.ip_network("127.0.0.0/30")]
    proxy = Proxy(
        header="x-user", networks=networks, groups_header="x-groups", groups={"ops": Role.OPERATE, "root": Role.ADMIN}
    )
    with web.serving(living_url, proxy=proxy) as one:
        yield one


def me(server: Web, **headers: str) -> Reply:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.get("/me", role=None, headers=given)


def test_a_proxy_says_who_asks_and_in_which_groups(behind: Web) -> None:
    for groups, role in (
        ("", "read"),
        ("staff", "read"),
        ("staff, ops", "operate"),
        ("ops,root", "admin"),
        ("opsx", "read"),
    ):
        found = me(behind, X_User="ann", X_Groups=groups).json
        assert (found["principal"], found["role"]) == ("ann", role)
    assert me(behind).status == 401 and me(behind, X_User="").status == 401
    assert me(behind, X_User="a\tnn@evil <b>").json["principal"] == "annevil<b>"
    assert behind.get("/me", role="operate").json["role"] == "operate", "tokens work beside it"
    forged = behind.post("/queues/mail/pause", {}, role=None, headers={"X-User": "ann", "X-Groups": "root"})
    assert (forged.status, forged.code) == (403, "cross_site"), "a browser sends this by itself"


def test_the_header_of_a_proxy_is_an_error_from_anybody_else(living_url: str, client: Client) -> None:
    proxy = Proxy(header="x-user", networks=[ipaddress.ip_network("10.0.0.0/8")])
    with web.serving(living_url, proxy=proxy) as server:
        for more in ({}, {"X_Forwarded_For": "10.0.0.1"}, {"Forwarded": "for=10.0.0.1"}, {"X_Real_Ip": "10.0.0.1"}):
            reply = me(server, X_User="root", **more)
            assert (reply.status, reply.code) == (400, "proxy")
        page = server.get("/queues", base="", role=None, headers={"X-User": "root"})
        assert page.status == 400 and "only" in page.text
        assert server.get("/me", headers={"X-User": "root"}).code == "proxy", "with a token as well"
        assert server.get("/me").status == 200


def test_a_proxy_whose_address_others_have_too_knows_a_secret(living_url: str, client: Client) -> None:
    networks = [ipaddress.ip_network("127.0.0.1/32")]
    proxy = Proxy(
        header="x-user",
        networks=networks,
        secret="s3cret-of-the-proxy",
        role=None,
        groups_header="x-groups",
        groups={"ops": Role.OPERATE},
    )
    with web.serving(living_url, proxy=proxy) as server:
        for secret in ("", "s3cret", "s3cret-of-the-proxy2"):
            reply = me(server, X_User="ann", X_Groups="ops", X_Disbatch_Secret=secret)
            assert (reply.status, reply.code) == (400, "proxy") and "s3cret-of" not in reply.text
        right = {"X_User": "ann", "X_Disbatch_Secret": "s3cret-of-the-proxy"}
        assert me(server, X_Groups="ops", **right).json["role"] == "operate"
        alone = me(server, X_Groups="staff", **right)
        assert (alone.status, alone.code) == (403, "role") and "no group" in alone.json["detail"]


def test_over_a_unix_socket_the_proxy_is_whoever_may_open_it(living_url: str, client: Client, tmp_path: Path) -> None:
    for is_local, status in ((True, 200), (False, 400)):
        proxy = Proxy(header="x-user", networks=[ipaddress.ip_network("127.0.0.1/32")], is_local=is_local)
        path = tmp_path / f"{is_local}.sock"
        with web.serving(living_url, proxy=proxy, listen=path):
            assert path.stat().st_mode & 0o777 == 0o600
            connection = http.client.HTTPConnection("localhost")
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(path))
            connection.request("GET", "/api/v1/me", headers={"X-User": "ann"})
            assert connection.getresponse().status == status
            connection.close()


# Pages of other sites that may ask


def test_only_pages_that_were_named_may_read_and_only_with_a_token(walled: Web) -> None:
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{walled.port}"):
        for reply in (
            walled.get("/queues", headers={"Origin": origin}),
            walled.ask("OPTIONS", "/queues", headers={"Origin": origin, "Access-Control-Request-Method": "GET"}),
        ):
            assert not [name for name in reply.headers if name.startswith("access-control")]
    named = {"Origin": "https://board.example.org"}
    reply = walled.get("/queues", headers=named)
    assert reply.headers["access-control-allow-origin"] == named["Origin"] and reply.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in reply.headers
    asked = walled.ask("OPTIONS", "/queues", role=None, headers={**named, "Access-Control-Request-Method": "POST"})
    assert asked.status == 204 and "Authorization" in asked.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in asked.headers
    cookie = f"{COOKIE}={signed_in(walled).cookies[COOKIE]}"
    by_cookie = walled.get("/queues", role=None, headers={**named, "Cookie": cookie})
    assert "access-control-allow-origin" not in by_cookie.headers


# What every answer carries


def test_every_kind_of_answer_has_the_headers(walled: Web) -> None:
    visitor = signed_in(walled)
    style = next(one for one in visitor.page("/queues").links if one.endswith(".css"))
    tag = walled.get("/queues").headers["etag"]
    replies = {
        "page": visitor.get("/queues"), "problem page": visitor.get("/nothing"), "redirect": Visitor(walled).get("/"),
        "file": visitor.get(style), "API": walled.get("/queues"), "problem": walled.get("/nothing"),
        "not modified": walled.get("/queues", headers={"If-None-Match": tag}), "stream": walled.get("/overview/events"),
        "download": walled.get("/tasks/export"), "health": walled.get("/healthz", base=""),
        "icon": visitor.get("/favicon.ico"), "head": walled.ask("HEAD", "/queues"),
        "other host": walled.get("/", headers={"Host": "evil.example"}), "no such path": visitor.get("/%FF"),
        "metrics": walled.get("/metrics", base=""), "wrong method": walled.ask("PUT", "/queues"),
    }  # fmt: skip
    assert replies["not modified"].status == 304 and replies["no such path"].status == 404
    for kind, reply in replies.items():
        policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
        assert policy == {
            "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
            "img-src": "'self'", "form-action": "'self'", "frame-ancestors": "'none'", "base-uri": "'none'",
        }, kind  # fmt: skip
        assert reply.headers["referrer-policy"] in ("no-referrer", "same-origin"), kind
        assert reply.headers["x-content-type-options"] == "nosniff", kind
        assert reply.headers["cross-origin-opener-policy"] == "same-origin", kind
        assert reply.headers["cross-origin-resource-policy"] == "same-origin", kind
        assert "strict-transport-security" not in reply.headers and "server" not in reply.headers, kind
        kept = "public, max-age=31536000, immutable" if kind == "file" else "no-store"
        assert reply.headers["cache-control"] == kept, kind


def test_only_over_tls_a_browser_is_told_to_stay_there(walled: Web) -> None:
    for headers, is_encrypted in (
        ({"X-Forwarded-Proto": "https"}, True),
        ({"X-Forwarded-Proto": "https, http"}, True),
        ({"X-Forwarded-Proto": "http"}, False),
        ({"Host": "jobs.example.org"}, True),
        ({"Host": "jobs.example.org", "X-Forwarded-Proto": "http"}, False),
        ({"Host": "plain.example.org:8080"}, False),
    ):
        form = {**FORM, "Sec-Fetch-Site": "same-origin", **headers}
        body = f"token={walled.tokens['read']}".encode()
        reply = walled.post("/login", body, base="", role=None, headers=form)
        assert reply.status == 303 and ("Secure" in reply.headers["set-cookie"]) == is_encrypted, headers
        assert ("strict-transport-security" in reply.headers) == is_encrypted, headers


# Sizes


def test_what_is_too_large_is_turned_away_and_the_next_one_is_served(walled: Web) -> None:
    for path, size, status in (
        ("/queues/mail/pause", 2**20 + 1, 413), ("/queues/mail/tasks", 16 * 2**20 + 1, 413),
        ("/queues/mail/tasks/check", 2**20 + 2**19, 200),
    ):  # fmt: skip
        body = b'{"parameters": {"user": "' + b"x" * size + b'"}}'
        reply = walled.post(path, body, headers={"Content-Type": "application/json"})
        assert reply.status == status, (path, reply.text[:300])
    visitor = signed_in(walled, "admin")
    page = visitor.post("/queues/mail/pause", [("reason", "x" * 2**20)])
    assert page.status == 413 and "1,048,576" in page.text
    long = walled.get("/queues", headers={"X-Long": "x" * 17_000})
    assert (long.status, long.code) == (431, "header")
    assert walled.get("/queues").status == 200

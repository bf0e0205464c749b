"""What people and programs who mean harm put into fields, files and requests: it stays text, and small."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from client.documents import put_task
from disbatch_host.client import Client
from disbatch_host.web import api
from helpers import marked, web
from helpers.browsing import Page, Visitor
from helpers.marked import CRLF, MARK, SECRET
from helpers.processes import wait_until
from helpers.web import Web

_PLACE = re.compile(r"\{(\w+)\}")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return marked.plugins_in(tmp_path_factory.mktemp("plugins"))


@pytest.fixture(scope="module")
def things(client: Client) -> dict[str, str]:
    return marked.fill(client)


@pytest.fixture(scope="module")
def admin(server: Web, things: dict[str, str]) -> Iterator[Visitor]:
    visitor = Visitor(server)
    assert visitor.sign_in("admin").status == 200
    yield visitor


@pytest.fixture(scope="module")
def jobs(server: Web, things: dict[str, str]) -> Mapping[str, list[str]]:
    """An operation and an import, whose words are markup, and their ids by their place in an address."""
    dry = {"action": "retry", "filter": {"queue": MARK}, "dry_run": True}
    seen = server.post("/operations", dry).json
    wanted = {**dry, "dry_run": False, "until": seen["until"], "expect": seen["eligible"], "reason": MARK}
    operation = server.post("/operations", wanted)
    assert operation.status == 202, operation.text
    rows = f'user,password,"{MARK.replace(chr(34), chr(34) * 2)}"\n{json.dumps("=1+1")},{SECRET},x\n,{SECRET},y\n'
    name = f"{MARK}.csv".replace('"', "").replace("/", "")
    headers = {"Content-Type": "text/csv", "Content-Disposition": f'attachment; filename="{name}"'}
    uploads = [server.post("/uploads", rows.encode(), headers=headers).json for _ in range(2)]
    assert all("<evil-mark>" in one["name"] for one in uploads)
    columns = {"user": "user", "password": "password"}
    given = {"queue": MARK, "map": columns, "on_error": "skip"}
    tried = server.post("/imports", {**given, "upload": uploads[1]["upload"], "dry_run": True})
    assert tried.status == 200 and tried.json["fit"] == 1, tried.text
    begun = server.post("/imports", {**given, "upload": uploads[0]["upload"], "dry_run": False})
    assert begun.status == 202, begun.text
    at = begun.headers["location"]
    wait_until(lambda: server.get(at, base="").json["state"] != "running", 60, "the import goes on")
    ids = {"o": operation.headers["location"], "i": at, "u": uploads[1]["upload"]}
    return {place: [one.rpartition("/")[2]] for place, one in ids.items()}


def test_no_page_has_an_element_of_somebody_else(
    admin: Visitor, things: dict[str, str], jobs: Mapping[str, list[str]]
) -> None:
    seen = ""
    for address in marked.addresses(things, **jobs):
        reply = admin.follow(admin.get(address))
        assert reply.status < 500, (address, reply.text[-600:])
        page = Page(reply.text)
        assert {"evil-mark", "img", "iframe", "object", "base"}.isdisjoint(page.tags), address
        assert page.tags.count("script") == len([one for one in page.links if one.endswith(".js")]), address
        assert page.inline == [], (address, page.inline)
        assert not [one for one in page.links if re.match(r"\s*(javascript|data|vbscript|https?):|//", one)], address
        assert SECRET not in reply.text, address
        seen += reply.text
    assert seen.count("&lt;evil-mark&gt;") > 200, "it was shown, as text"


def values_for(things: dict[str, str], jobs: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {"q": [MARK, CRLF], "id": list(things.values()), "b": [MARK], "n": [MARK], "class": ["Greet", MARK], **jobs}


def test_no_route_answers_with_the_secret(server: Web, things: dict[str, str], jobs: Mapping[str, list[str]]) -> None:
    """Every GET of the table, of everything that there is; and a stream."""
    values = values_for(things, jobs)
    queries = {
        "/tasks": ["", "?columns=p.password", "?order=oldest", f"?queue={quote(MARK, safe='')}"],
        "/tasks/export": ["", "?format=csv", "?output=yes", "?format=csv&columns=parameters.password,user"],
        "/failures": ["", "?by=error,version,node,queue"],
        "/tasks/{id}/output/{stream}/search": ["?q=evil"],
    }
    answered = set()
    for route in (one for one in api.ROUTES if one.method == "GET"):
        for name in next((values[one] for one in _PLACE.findall(route.path) if one in values), ["none"]):
            path = _path_of(route.path, name)
            for query in queries.get(route.path, [""]):
                reply = server.get(f"{path}{query}")
                assert reply.status < 500, (path, reply.text)
                assert SECRET.encode() not in reply.data and SECRET not in str(reply.headers), route.name
                assert _unpacked(reply.data).count(SECRET.encode()) == 0, route.name
                answered |= {route.name} if reply.status < 400 else set()
    missing = {one.name for one in api.ROUTES if one.method == "GET"} - answered
    assert missing <= {"GET /tasks/{id}/attempts/{n}/output/{stream}"}, missing


def _path_of(path: str, name: str) -> str:
    return _PLACE.sub(lambda place: _value_of(place[1], name), path)


def _value_of(place: str, name: str) -> str:
    return {"stream": "stdout", "n": quote(MARK, safe="") if name == MARK else "1"}.get(place, quote(name, safe=""))


def _unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def test_no_answer_has_a_header_of_somebody_else(
    server: Web, admin: Visitor, things: dict[str, str], client: Client
) -> None:
    """CR and LF in reasons, names and files."""
    task = client.push(MARK, {"user": "ann"}, checks=False).id
    crlf, mark = quote(CRLF, safe=""), quote(MARK, safe="")
    replies = [
        server.post(f"/tasks/{task}/cancel", {"reason": CRLF}),
        server.get(f"/tasks/{task}"),
        server.post(f"/queues/{crlf}/pause", {"reason": CRLF}),
        server.get(f"/queues/{crlf}"),
        server.post(f"/queues/{crlf}/tasks?check=no", {"parameters": {"user": CRLF}}),
        server.get(f"/tasks/export?queue={crlf}"),
        server.get(f"/batches/{mark}/export"),
        server.get(f"/tasks/{quote(things['failed'], safe='')}/bundle"),
        admin.get(f"/search?q={crlf}"),
        admin.get(f"/tasks?add=p.&parameter=user&value={crlf}"),
        admin.get(f"/tasks?cursor={crlf}"),
        admin.get(f"/{crlf}/"),
        admin.post("/look", [("scheme", f"dark{CRLF}"), ("next", f"/queues/{CRLF}")]),
        Visitor(server).post("/login", [("token", server.tokens["read"]), ("next", f"/{CRLF}")]),
    ]
    for reply in replies:
        assert reply.status < 500
        assert "evil" not in reply.headers.get("set-cookie", "") and not [one for one in reply.headers if "evil" in one]
        for name in ("location", "content-disposition"):
            assert not re.search(r"[\x00-\x1f\x7f]", reply.headers.get(name, "")), reply.headers
    assert replies[0].code == "faults" and client.get(task).status == -2, "such a reason is none"


def test_a_file_has_the_last_part_of_its_name_without_what_cannot_be_printed(
    server: Web, things: dict[str, str]
) -> None:
    body = (
        '--b0\r\nContent-Disposition: form-data; name="file"; filename="../../etc/x\x0b\x1b[31m<evil-mark>.csv"\r\n\r\n'
        "user\na\n\r\n--b0--\r\n"
    )
    kept = server.post("/uploads", body.encode(), headers={"Content-Type": "multipart/form-data; boundary=b0"})
    assert kept.status == 201 and kept.json["name"] == "x[31m<evil-mark>.csv"


def test_rows_that_do_not_fit_come_back_without_formulas_and_secrets(server: Web, things: dict[str, str]) -> None:
    rows = 'user,password,deep\n=1+1,planted-5ecret,"=cmd|x"\n@SUM(1),planted-5ecret,+1\n'
    upload = server.post("/uploads", rows.encode(), headers={"Content-Type": "text/csv"}).json["upload"]
    given = {"upload": upload, "queue": MARK, "on_error": "skip", "dry_run": False}
    tried = server.post("/imports", {**given, "dry_run": True})
    assert tried.status == 200 and tried.json["fit"] == 0 and SECRET not in tried.text
    begun = server.post("/imports", given)
    at = begun.headers["location"]
    wait_until(lambda: server.get(at, base="").json["state"] != "running", 60, "the import goes on")
    faults = server.get(f"{at}/faults.csv", base="")
    assert SECRET not in faults.text
    cells = [cell for row in csv.reader(io.StringIO(faults.data.decode("utf-8-sig"), newline="")) for cell in row]
    assert cells and not [one for one in cells if one[:1] in ("=", "@", "+", "\t", "\r")], cells


def test_a_small_file_that_becomes_large_is_refused(tmp_path: Path, living_url: str, client: Client) -> None:
    """By its ratio, and by its size; also where it is several that follow each other, and nested."""
    with web.serving(living_url, spool=tmp_path / "spool", upload_max=2**20) as server:
        zeros = gzip.compress(b"0" * 2**26)
        for data in (zeros, zeros * 3, gzip.compress(b"user\n") + zeros, gzip.compress(b"user\n" * 2**22)):
            reply = server.post("/uploads", data, headers={"Content-Type": "application/gzip"})
            assert (reply.status, reply.code) == (413, "too_large"), reply.text
        nested = gzip.compress(zeros)
        reply = server.post("/uploads", nested, headers={"Content-Type": "application/gzip"})
        assert reply.status == 422, "what is packed twice is not unpacked twice"
        for encoding, data in (("gzip", gzip.compress(b"{}")), ("deflate", zlib.compress(b"{}")), ("br", b"x")):
            packed = server.post(
                "/queues/runs/pause",
                data,
                headers={"Content-Type": "application/json", "Content-Encoding": encoding},
            )
            assert packed.status in (400, 415), "bodies are never unpacked"
        assert list((tmp_path / "spool").iterdir()) == []


def nested(levels: int, inner: Any = None) -> bytes:
    return b'{"a":' * levels + json.dumps(inner).encode() + b"}" * levels


@pytest.mark.parametrize("levels", [90, 5_000, 100_000])
def test_json_of_many_levels_is_refused_or_kept_and_shown(
    server: Web, admin: Visitor, client: Client, things: dict[str, str], levels: int
) -> None:
    body = b'{"parameters": ' + nested(levels) + b"}"
    made = server.post("/queues/runs/tasks?check=no", body, headers={"Content-Type": "application/json"})
    assert made.status in ((201, 422) if levels == 90 else (400, 422)), made.text[:300]
    for path in ("/queues/runs/tasks/check", "/operations", "/queues/printing/pause", "/imports"):
        reply = server.post(path, body, headers={"Content-Type": "application/json"})
        assert reply.status in (200, 400, 422), (path, reply.status)
    pushed = admin.post("/queues/runs/push", [("as", "json"), ("json", nested(levels).decode())])
    assert pushed.status in (303, 400, 422), pushed.status
    if made.status == 201:
        task = made.json["ids"][0]
        assert server.get(f"/tasks/{task}").status == 200 and admin.get(f"/tasks/{task}").status == 200
        assert admin.get(f"/tasks/{task}?tab=document").status == 200
        assert server.get("/tasks/export?queue=runs&format=csv").status == 200
    assert server.get("/queues").status == 200


def test_a_stored_document_of_many_levels_stops_no_list(server: Web, admin: Visitor, client: Client) -> None:
    client.queues.create("deep", "Greet")
    value: Any = MARK
    for _ in range(80):
        value = {"a": [value]} if _ % 2 else {"a": value}
    put_task(
        client.store, "deep", parameters={"user": value}, status=2, error={"code": "x", "message": "y", "detail": value}
    )
    task = server.get("/tasks?queue=deep").json["items"][0]["_id"]
    for address in (
        "/tasks?queue=deep",
        f"/tasks/{task}",
        f"/tasks/{task}?tab=document",
        "/failures?queue=deep",
        "/queues/deep",
    ):
        assert admin.get(address).status == 200, address


def test_odd_requests_are_answered_and_the_next_one_too(server: Web, things: dict[str, str]) -> None:
    for path in (
        "/tasks?" + "&".join(f"where=user={n}" for n in range(300)),
        "/tasks?limit=" + "9" * 5000,
        "/tasks?grep=%00",
        "/tasks?since=" + "9" * 400 + "d",
        "/tasks?queue=%FF%FE",
        "/tasks?cursor=" + "A" * 8000,
        "/tasks?where=" + ".".join("a" for _ in range(900)) + "=1",
    ):
        assert server.get(path).status in (200, 400, 404, 414, 422), path
    for value in ("bytes=0-0,1-1", "bytes=-", "bytes=9999999999999999999999-", "items=0-1", "bytes=5-2"):
        task = quote(things["failed"], safe="")
        assert server.get(f"/tasks/{task}/output/stdout", headers={"Range": value}).status in (200, 206, 400, 416), (
            value
        )
    assert server.get("/queues").status == 200

"""What tasks have printed: whole, in parts, searched; on both stores."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from disbatch_host.client import Client
from disbatch_host.client.output_places import PIECE, Output, whole_characters
from disbatch_host.client.output_search import Search
from disbatch_protocol.encodings import Encoding
from disbatch_protocol.status import Status
from helpers.printing import Printing
from helpers.web import Reply, Web

LINE = "grün: a line that says €\n".encode()
LONG = LINE * (6 * PIECE // len(LINE)) + b"the end"  # beyond what a document holds


def run_of(client: Client, queue: str, **more: Any) -> Printing:
    if client.store.find_queue(queue) is None:
        client.queues.create(queue, "Greet")
    return Printing(client, client.push(queue, {"user": "x"}).id, **more).begin()


@pytest.fixture(scope="module")
def long_one(client: Client) -> Any:
    """A task that has printed `LONG`."""
    run = run_of(client, "long")
    run.prints(LONG)
    run.prints(b"on stderr\n", "stderr")
    run.ends()
    return run.id


def part(server: Web, task: Any, wanted: str, **more: Any) -> Reply:
    return server.get(f"/tasks/{task}/output/stdout", headers={"Range": wanted, **more})


def test_an_output_is_whole_and_says_what_it_is(server: Web, long_one: Any) -> None:
    reply = server.get(f"/tasks/{long_one}/output/stdout", role="read")
    assert reply.status == 200 and reply.data == LONG
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff" and reply.headers["x-attempt"] == "1"
    assert reply.headers["content-length"] == str(len(LONG)) and reply.headers["accept-ranges"] == "bytes"
    assert "content-disposition" not in reply.headers and "secret-token" not in str(reply.headers)
    assert server.get(f"/tasks/{long_one}/output/stderr").data == b"on stderr\n"
    kept = server.get(f"/tasks/{long_one}/output/stdout?download=yes").headers["content-disposition"]
    assert kept == f'attachment; filename="{long_one}-stdout.txt"'
    same = {"If-None-Match": reply.headers["etag"]}
    assert server.get(f"/tasks/{long_one}/output/stdout", headers=same).status == 304
    head = server.ask("HEAD", f"/tasks/{long_one}/output/stdout")
    assert (head.status, head.data, head.headers["content-length"]) == (200, b"", str(len(LONG)))


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, len(LONG)),
        ("bytes=-65536", len(LONG) - 65536, len(LONG)),
        (f"bytes=-{2 * len(LONG)}", 0, len(LONG)),
        (f"bytes={len(LONG) - 1}-{len(LONG) + 9}", len(LONG) - 1, len(LONG)),
        *[(f"bytes={4 * PIECE + n}-{5 * PIECE - n}", 4 * PIECE + n, 5 * PIECE - n + 1) for n in (-1, 0, 1)],
        (f"bytes={PIECE - 1}-{PIECE}", PIECE - 1, PIECE + 1),
        ("bytes=2-2", 2, 3),  # within a character
    ],
)
def test_a_range_is_these_bytes(server: Web, long_one: Any, wanted: str, start: int, end: int) -> None:
    reply = part(server, long_one, wanted)
    assert reply.status == 206 and reply.data == LONG[start:end]
    assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/{len(LONG)}"
    assert reply.headers["content-length"] == str(end - start)


def test_a_range_that_is_not_there_or_not_understood(server: Web, client: Client, long_one: Any) -> None:
    for wanted in (f"bytes={len(LONG)}-", "bytes=-0"):
        reply = part(server, long_one, wanted)
        assert (reply.status, reply.code) == (416, "range")
        assert reply.headers["content-range"] == f"bytes */{len(LONG)}"
    for wanted in ("lines=1-2", "bytes=1-2,4-5", "bytes=5-2", "bytes=-"):
        assert part(server, long_one, wanted).status == 200
    tag = part(server, long_one, "bytes=0-1").headers["etag"]
    assert part(server, long_one, "bytes=0-1", **{"If-Range": tag}).status == 206
    assert part(server, long_one, "bytes=0-1", **{"If-Range": '"of another"'}).status == 200
    silent = run_of(client, "silent")
    assert (part(server, silent.id, "bytes=-65536").status, part(server, silent.id, "bytes=0-").status) == (200, 416)


def test_what_is_printed_later_changes_the_tag(server: Web, client: Client) -> None:
    run = run_of(client, "growing")
    sizes, tags = [], set()
    for data in (b"some\n", b"more\n", LINE * 60_000, b"x" * 3 * PIECE):
        run.prints(data)
        reply = server.get(f"/tasks/{run.id}/output/stdout")
        assert reply.status == 200 and (b"some\nmore\n" + LINE * 60_000 + b"x" * 3 * PIECE).startswith(reply.data)
        sizes.append(len(reply.data))
        tags.add(reply.headers["etag"])
    assert sizes == sorted(sizes) and sizes[:2] == [5, 10] and len(tags) == 4
    run.ends()
    assert len(server.get(f"/tasks/{run.id}/output/stdout").data) == 10 + len(LINE) * 60_000 + 3 * PIECE


def test_what_is_not_text_comes_as_it_was(server: Web, client: Client) -> None:
    run = run_of(client, "binary", encoding=Encoding.BINARY)
    data = random.Random(1).randbytes(PIECE + 1000)
    run.prints(data)
    run.ends()
    reply = server.get(f"/tasks/{run.id}/output/stdout?download=yes")
    assert reply.data == data and reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"].endswith('.bin"')
    assert part(server, run.id, f"bytes=-{PIECE}").data == data[-PIECE:]


def test_a_task_that_has_not_begun_has_printed_nothing(server: Web, client: Client) -> None:
    client.queues.create("waiting_ones", "Greet")
    task = client.push("waiting_ones", {"user": "x"}).id
    reply = server.get(f"/tasks/{task}/output/stdout")
    assert (reply.status, reply.data, reply.headers["x-attempt"]) == (200, b"", "0")


def test_the_output_of_an_attempt_is_kept_or_it_is_said_that_it_is_not(server: Web, client: Client) -> None:
    run = run_of(client, "attempts")
    run.prints(b"first\n")
    run.ends(Status.FAILED)
    run.is_to_run_again()
    run.begin().prints(b"second\n")
    for path in ("output/stdout?attempt=2", "attempts/2/output/stdout", "output/stdout"):
        reply = server.get(f"/tasks/{run.id}/{path}")
        assert (reply.status, reply.data, reply.headers["x-attempt"]) == (200, b"second\n", "2")
    for path in ("output/stdout?attempt=1", "attempts/1/output/stdout"):
        reply = server.get(f"/tasks/{run.id}/{path}")
        assert (reply.status, reply.code) == (410, "not_kept")
    for path in ("output/stdout?attempt=3", "attempts/3/output/stdout", "attempts/x/output/stdout"):
        reply = server.get(f"/tasks/{run.id}/{path}")
        assert (reply.status, reply.code) == (404, "task")
    run.ends(Status.FAILED)
    run.is_to_run_again()
    run.begin(keep_attempts=2).prints(LONG)
    run.ends(Status.FAILED)
    run.is_to_run_again()
    run.begin(keep_attempts=3)
    for number, data in ((2, b"second\n"), (3, LONG), (4, b"")):
        for path in (f"output/stdout?attempt={number}", f"attempts/{number}/output/stdout"):
            reply = server.get(f"/tasks/{run.id}/{path}")
            assert (reply.status, reply.data, reply.headers["x-attempt"]) == (200, data, str(number))
    ended = part(server, f"{run.id}/attempts/3", f"bytes=-{PIECE}")
    assert (ended.status, ended.data) == (206, LONG[-PIECE:])
    assert server.get(f"/tasks/{run.id}/attempts/2/output/stderr").data == b""
    assert server.get(f"/tasks/{run.id}/output/stdout/search?q=cond&attempt=2").json["hits"][0]["offset"] == 2
    assert server.get(f"/tasks/{run.id}/output/stdout/search?q=cond&attempt=1").code == "not_kept"
    assert server.get(f"/tasks/{run.id}/output/both").code == "route"


def test_an_output_belongs_to_its_queue(server: Web, client: Client) -> None:
    other = run_of(client, "not_mail")
    other.prints(b"secret\n")
    for path in ("output/stdout", "attempts/1/output/stdout", "output/stdout/search?q=secret", "events"):
        reply = server.get(f"/tasks/{other.id}/{path}", role="mail_only")
        assert (reply.status, reply.code) == (404, "task")


def test_a_text_is_found_wherever_it_is(server: Web, client: Client) -> None:
    run = run_of(client, "searched")
    filler = b"nothing to see\n" * 20_000
    text = filler[: PIECE - 3] + b"NEEDLE\nline two: Needle and a needle\n" + filler + "last needle €".encode()
    run.prints(text)
    run.ends()
    found: list[dict[str, Any]] = []
    link = f"/tasks/{run.id}/output/stdout/search?q=needle&limit=2"
    more = ""
    while True:
        reply = server.get(f"{link}{more}")
        assert reply.status == 200, reply.text
        found += reply.json["hits"]
        if reply.json["is_all"]:
            assert reply.json["next"] is None
            break
        more = f"&from={reply.json['next']}"
    lowered = text.lower()
    places = [at for at in range(len(text)) if lowered.startswith(b"needle", at)]
    assert [one["offset"] for one in found] == places and len(places) == 4
    assert [one["line"] for one in found] == [text[:at].count(b"\n") + 1 for at in places]
    assert found[1]["text"] == "line two: Needle and a needle" and found[3]["text"].endswith("last needle €")
    unnumbered = server.get(f"{link}&from={places[0] + 1}").json["hits"][0]
    assert (unnumbered["offset"], unnumbered["line"]) == (places[1], None)
    assert server.get(f"/tasks/{run.id}/output/stdout/search?q=no+such+text").json["hits"] == []


@pytest.mark.parametrize("query", ["q=a", "", "q=aa&from=x", "q=aa&limit=201", "q=aa&from=-1"])
def test_a_search_that_cannot_be_made_is_refused(server: Web, long_one: Any, query: str) -> None:
    reply = server.get(f"/tasks/{long_one}/output/stdout/search?{query}")
    assert (reply.status, reply.code) == (400, "query")


def test_a_search_finds_the_same_however_it_is_cut() -> None:
    chance = random.Random(7)
    for _ in range(200):
        data = bytes(chance.choices(b"ab\n", k=chance.randrange(3000)))
        search = Search("aB", offset=0, line=1, limit=10**6)
        at = 0
        while at < len(data):
            size = chance.randrange(1, 900)
            search.feed(data[at : at + size], is_last=at + size >= len(data))
            at += size
        places = [at for at in range(len(data)) if data.startswith(b"ab", at)]
        assert [one.offset for one in search.hits] == places
        assert [one.line for one in search.hits] == [data.count(b"\n", 0, at) + 1 for at in places]


@pytest.mark.parametrize("size", [4 * PIECE + 5000, 5 * PIECE - 1, 5 * PIECE, 5 * PIECE + 1, 9 * PIECE])
def test_the_size_is_known_without_reading_it_all(client: Client, size: int) -> None:
    run = run_of(client, "sizes")
    run.prints(b"x" * size)
    run.ends()
    output = Output.of(client.get(run.id), "stdout")
    for about in (0, 1, output.about_bytes, 40 * PIECE):
        assert replace(output, about_bytes=about, beginning=b"").size(client.store) == size
    assert output.read(client.store, size - 1) == b"x" and output.read(client.store, size) == b""


def test_characters_are_whole() -> None:
    text = "a€ü😀".encode()
    for end in range(len(text) + 1):
        whole = whole_characters(text[:end])
        assert text[:whole].decode() == text[:end].decode("utf-8", "ignore") and whole <= end

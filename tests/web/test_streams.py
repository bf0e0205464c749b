"""Streams of events: a task and a batch as they go on, on both stores, and what ends a stream."""

from __future__ import annotations

import asyncio
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from disbatch_host.client import Client
from disbatch_host.web import feed
from disbatch_protocol.status import Status
from helpers import web
from helpers.printing import Printing
from helpers.processes import wait_until
from helpers.web import Event, Web

_names = (f"followed{n}" for n in itertools.count())


def run_of(client: Client, **parameters: Any) -> Printing:
    queue = next(_names)
    client.queues.create(queue, "Greet")
    return Printing(client, client.push(queue, {"user": "x", **parameters}).id).begin()


def of(events: list[Event], name: str) -> list[Event]:
    return [one for one in events if one.name == name]


def test_a_task_is_followed_to_its_end(server: Web, client: Client) -> None:
    run = run_of(client, password="open-sesame")
    run.prints(b"before\n")
    with server.follow(f"/tasks/{run.id}/events", role="read") as stream:
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-store" and stream.headers["x-accel-buffering"] == "no"
        first = stream.next()
        assert first is not None and (first.name, first.id) == ("task", "1:0:0")
        assert first.data["status"] == Status.RUNNING and first.data["attempt"] == 1 and first.data["log"] == []
        assert first.data["parameters"]["password"] == "********" and "stdout" not in first.data
        assert stream.text(7) == "before\n"
        run.prints("nach grün\n".encode())
        assert stream.text(11) == "nach grün\n"
        run.prints(b"oops\n", "stderr")
        (found,) = of(stream.until("stderr"), "stderr")
        assert (found.data, found.id) == ({"offset": 0, "text": "oops\n"}, "1:18:5")
        log = [{"at": datetime.now(UTC), "message": "one"}]
        run.tells(progress={"value": 0.5, "message": "half"}, log=log)
        (told,) = stream.until("task")
        assert told.data["progress"]["value"] == 0.5 and [one["message"] for one in told.data["log"]] == ["one"]
        run.tells(log=[*log, {"at": datetime.now(UTC), "message": "two"}])
        (told,) = stream.until("task")
        assert [one["message"] for one in told.data["log"]] == ["two"] and not told.data["log_is_whole"]
        run.ends()
        assert stream.until("end")[-1].data["status"] == Status.CONCLUDED
        bye = stream.next()
        assert bye is not None and (bye.name, bye.data) == ("bye", {"why": "end"}) and stream.next() is None
        text = b"".join(stream.lines)
    assert b"open-sesame" not in text and b"secret-token" not in text and text.startswith(b"retry: 2000\n")


def test_one_that_has_ended_is_told_at_once(server: Web, client: Client) -> None:
    run = run_of(client)
    run.prints(b"0123456789" * 10)
    run.ends(Status.FAILED)
    with server.follow(f"/tasks/{run.id}/events?tail=10") as stream:
        events = stream.until("end")
        assert [one.name for one in events] == ["task", "stdout", "end"]
        assert events[1].data == {"offset": 90, "text": "0123456789"} and events[1].id == "1:100:0"
    with server.follow(f"/tasks/{run.id}/events?tail=0") as stream:
        assert [one.name for one in stream.until("end")] == ["task", "end"]


def test_whoever_comes_back_goes_on_where_he_was(server: Web, client: Client) -> None:
    run = run_of(client)
    run.prints("€uro und mehr\n".encode())
    run.prints(b"fault\n", "stderr")
    run.ends()
    path = f"/tasks/{run.id}/events"
    for given, headers in (("?from=1:3:6", {}), ("", {"Last-Event-ID": "1:3:6"}), ("?from=1:2:6", {})):
        with server.follow(f"{path}{given}", headers=headers) as stream:
            events = stream.until("end")
        texts = of(events, "stdout")
        wanted = (0, "€uro und mehr\n") if "2:6" in given else (3, "uro und mehr\n")
        assert [(one.data["offset"], one.data["text"]) for one in texts] == [wanted], "never within a character"
        assert of(events, "stderr") == []
    with server.follow(f"{path}?streams=stderr") as stream:
        assert {one.name for one in stream.until("end")} == {"task", "stderr", "end"}
    for query in ("from=1:2", "from=x", "streams=stdin", "tail=-1"):
        assert server.get(f"{path}?{query}").code == "query"


def test_a_new_attempt_begins_anew(server: Web, client: Client) -> None:
    run = run_of(client)
    run.prints(b"first try\n")
    with server.follow(f"/tasks/{run.id}/events") as stream:
        assert stream.text(10) == "first try\n"
        run.ends(Status.FAILED)
        stream.until("end")
    run.is_to_run_again()
    with server.follow(f"/tasks/{run.id}/events?from=1:10:0") as stream:
        (task,) = stream.until("task")
        assert task.data["status"] == Status.CREATED
        run.begin().prints(b"second\n")
        events = stream.until("stdout")
        (reset,) = of(events, "reset")
        assert (reset.data, reset.id) == ({"attempt": 2}, "2:0:0") and events[-1].data == {
            "offset": 0,
            "text": "second\n",
        }
    with server.follow(f"/tasks/{run.id}/events?from=1:10:0") as stream:
        assert [one.name for one in stream.until("stdout")] == ["reset", "task", "stdout"]
        run.ends()
        stream.until("end")


def test_a_large_output_comes_whole_and_in_order(server: Web, client: Client) -> None:
    """Beyond what a document holds, also where a piece ends within a character."""
    run = run_of(client)
    text = "".join(f"{n} äöü€\n" for n in range(300_000))
    data = text.encode()
    with server.follow(f"/tasks/{run.id}/events") as stream:
        stream.until("task")
        run.prints(data)
        run.ends()
        assert stream.text(len(data)) == text
        stream.until("end")
    with server.follow(f"/tasks/{run.id}/events?from=1:0:0") as stream:
        assert stream.text(len(data)) == text


def test_many_follow_one_task_and_it_is_read_once(server: Web, client: Client) -> None:
    run = run_of(client)
    reads = "disbatch_web_followed_tasks"
    streams = []
    for role in ("read", "operate", "admin"):
        for _ in range(5):
            manager = server.follow(f"/tasks/{run.id}/events", role=role)
            streams.append((manager, manager.__enter__()))
    try:
        for _, stream in streams:
            stream.until("task")
        figures = server.get("/metrics", base="").text
        assert f"{reads} 1\n" in figures and 'disbatch_web_streams{kind="events"} 15\n' in figures
        run.prints(b"to all of them\n")
        for _, stream in streams:
            assert stream.text(15) == "to all of them\n"
    finally:
        for manager, _ in streams:
            manager.__exit__(None, None, None)
    wait_until(lambda: f"{reads} 0\n" in server.get("/metrics", base="").text, 30, "somebody still follows")


def test_a_task_that_is_deleted_ends_its_streams(server: Web, client: Client) -> None:
    run = run_of(client)
    run.ends()
    run.is_to_run_again()
    with server.follow(f"/tasks/{run.id}/events") as stream:
        stream.until("task")
        client.cancel(run.id)
        stream.until("end")
    client.delete(run.id)
    assert server.get(f"/tasks/{run.id}/events").code == "task"


def test_a_batch_is_told_when_it_changes(server: Web, client: Client) -> None:
    queue = next(_names)
    client.queues.create(queue, "Greet")
    batch = client.batches.create(f"batch-{queue}")
    with server.follow(f"/batches/{batch.id}/events") as stream:
        (first,) = stream.until("batch")
        assert first.data["progress"]["total"] == 0
        client.push(queue, {"user": "x"}, batch=batch.id)
        events = stream.until("batch")
        assert events[-1].data["progress"]["total"] == 1 and events[-1].data["_links"]["self"].endswith(str(batch.id))
    assert server.get(f"/batches/{batch.id}/events", role="mail_only").code == "role"


# The rest has nothing to do with the store

sqlite_only = pytest.mark.parametrize("living_url", ["sqlite"], indirect=True, scope="module")


@sqlite_only
def test_a_follower_who_is_too_slow_has_a_gap_and_nobody_waits(server: Web, client: Client) -> None:
    run = run_of(client)
    data = b"0123456789abcde\n" * 2**16
    with server.follow(f"/tasks/{run.id}/events") as slow, server.follow(f"/tasks/{run.id}/events") as quick:
        slow.until("task")
        quick.until("task")
        for _ in range(20):  # more than all buffers of a connection take
            run.prints(data)
        run.ends()
        assert _read_all(quick) == (20 * len(data), 0)
        size, gaps = _read_all(slow)
        assert size == 20 * len(data) and gaps >= 1
    figures = server.get("/metrics", base="").text
    assert "disbatch_web_gaps_total 0\n" not in figures


@sqlite_only
def test_a_reader_leaves_out_what_everybody_is_too_slow_for(living_url: str, client: Client) -> None:
    """Else what is shown would be older and older."""
    run = run_of(client)

    async def follow() -> list[feed.News]:
        with ThreadPoolExecutor(1) as thread, Client.open(living_url, by="web") as reading:
            loop = asyncio.get_running_loop()
            one = feed.Feed(
                run.id, lambda do: loop.run_in_executor(thread, do, reading), "/api/v1", behind_bytes=2**21,
                ahead_seconds=0.05,
            )  # fmt: skip
            one.start()
            await one.known()
            run.prints(b"0123456789abcde\n" * 2**19)
            run.ends()
            told: list[feed.News] = []
            while not one.is_over:
                await asyncio.sleep(0.01)
                told += [news for news in one._kept if news not in told]
            return told

    gaps = [json.loads(one.data.split(b"data: ")[1]) for one in asyncio.run(follow()) if one.kind == "gap"]
    assert len(gaps) == 1 and gaps[0]["to"] == 2**23 and gaps[0]["from"] < 2**22, gaps


def test_only_the_head_of_a_stream_can_be_asked_for(server: Web, client: Client) -> None:
    run = run_of(client)
    for path in (f"/tasks/{run.id}/events", "/overview/events"):
        reply = server.ask("HEAD", path)
        assert (reply.status, reply.data) == (200, b"")
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"


def _read_all(stream: web.Following) -> tuple[int, int]:
    """Bytes of stdout that came, or were said to be left out; nothing is missing and nothing comes twice."""
    at = gaps = 0
    while (one := stream.next()) is not None:
        if one.name == "stdout":
            assert one.data["offset"] == at
            at += len(one.data["text"].encode())
        elif one.name == "gap":
            assert one.data["from"] == at and one.data["to"] > at
            at, gaps = one.data["to"], gaps + 1
    return at, gaps

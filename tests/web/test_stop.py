"""What ends: streams, by their places and their time and at SIGTERM; connections that say nothing; the server."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.client import Client
from disbatch_host.client.output_places import PIECE
from disbatch_host.web import server as web_server
from disbatch_host.web.sending import Limits
from helpers import web
from helpers.nodes import COMMAND
from helpers.printing import Printing
from helpers.processes import wait_until
from helpers.web import Following

AT_ONCE_SECONDS = 6.0  # far below the ten that an answer under way has, on a machine that has much to do


@dataclass(frozen=True)
class Process:
    """`disbatch-host web`, where a proxy has signed people in."""

    process: subprocess.Popen[str]
    port: int

    def get(self, path: str, user: str = "ann") -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path, headers={"X-User": user})
        return connection, connection.getresponse()

    def status_of(self, path: str) -> int:
        connection, response = self.get(path)
        with contextlib.closing(connection):
            response.read()
            return response.status

    def stop(self) -> float:
        """SIGTERM; how long it took to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0
        return time.monotonic() - began


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Client]:
    with Client.open(f"sqlite://{tmp_path}/test.db", by="me@here", creates=True) as client:
        client.queues.create("q", "Greet")
        yield client


@pytest.fixture
def served(store: Client, tmp_path: Path) -> Iterator[Process]:
    command = [
        *COMMAND, "--store", f"sqlite://{tmp_path}/test.db", "web", "--listen", "127.0.0.1:0",
        "--proxy-user-header", "X-User", "--proxy-from", "127.0.0.1/32",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r":(\d+)/", said)
        assert found is not None, (said, process.communicate(timeout=30))
        yield Process(process, int(found[1]))
    finally:
        process.kill()
        process.communicate()


def run_that_prints(store: Client, size: int) -> Any:
    run = Printing(store, store.push("q", {"user": "x"}).id).begin()
    for _ in range(0, size, 8 * 2**20):
        run.prints(b"0123456789abcde\n" * (min(size, 8 * 2**20) // 16))
    return run.id


def test_sigterm_ends_two_hundred_streams_at_once(served: Process, store: Client) -> None:
    task = run_that_prints(store, 24 * 2**20)
    streams = []
    with ExitStack() as stack:
        for n in range(200):
            path = "/api/v1/overview/events" if n % 2 else f"/api/v1/tasks/{task}/events?streams=stderr"
            connection, response = served.get(path, user=f"user{n % 10}")
            stack.callback(connection.close)
            assert response.status == 200
            streams.append(Following(response))
        for stream in streams:
            assert stream.next() is not None
        # One more, who takes nothing of the 24 MiB that he wants.
        connection, response = served.get(f"/api/v1/tasks/{task}/events?from=1:0:0", user="slow")
        stack.callback(connection.close)
        assert response.status == 200
        _wait_until_full(connection.sock)
        assert served.stop() < AT_ONCE_SECONDS
        for stream in streams:
            last = None
            while (one := stream.next()) is not None:
                last = one
            assert last is not None and (last.name, last.data) == ("bye", {"why": "stopping"})
            assert stream.lines.count(b"retry: 2000\n") == 2


def _wait_until_full(receiving: socket.socket) -> None:
    """Nothing more goes into its buffers."""
    sizes = [0]

    def is_full() -> bool:
        waiting = fcntl.ioctl(receiving, termios.FIONREAD, bytes(4))
        sizes.append(int.from_bytes(waiting, sys.byteorder))
        return sizes[-1] > 0 and len(set(sizes[-8:])) == 1

    wait_until(is_full, 60, "its buffers take ever more")


def test_a_download_under_way_is_completed(served: Process, store: Client) -> None:
    size = 24 * 2**20
    task = run_that_prints(store, size)
    there = size // PIECE * PIECE  # of a program that runs, in whole pieces
    connection, response = served.get(f"/api/v1/tasks/{task}/output/stdout")
    with contextlib.closing(connection):
        assert response.status == 200 and response.headers["Content-Length"] == str(there)
        data = response.read(1000)
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: _is_refused(served.port), 60, "it still takes connections")
        data += response.read()
    assert len(data) == there and data == (b"0123456789abcde\n" * (there // 16 + 1))[:there]
    assert served.process.wait(60) == 0


def _is_refused(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


def test_connections_that_say_nothing_are_closed_and_nobody_notices(served: Process) -> None:
    assert web_server.HEADER_SECONDS == 5
    silent = []
    with ExitStack() as stack:
        connection, response = served.get("/api/v1/overview/events")
        stack.callback(connection.close)
        stream = Following(response)
        stream.until("overview")
        for n in range(500):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=60))
            half = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Us"
            if n % 3 == 1:
                one.sendall(half)
            if n % 3 == 2:  # after a whole one
                one.sendall(half + b"er: ann\r\n\r\n")
                assert one.recv(10_000).startswith(b"HTTP/1.1 200 ")
                one.sendall(half)
            silent.append(one)
        asked = 0
        while silent:
            assert served.status_of("/api/v1/queues") == 200
            asked += 1
            ready, _, _ = select.select(silent[:200], [], [], 0.5)
            for one in ready:
                if not (found := one.recv(1000)):
                    silent.remove(one)
                assert found in (b"", b"ok\n"), "it is closed, not answered"
        assert asked > 3, "they were not closed as long as their headers could still come"
        assert served.status_of("/healthz") == 200
        assert served.stop() < AT_ONCE_SECONDS
        assert stream.until("bye")[-1].data == {"why": "stopping"}


# In this process, with limits of its own


def url_of(tmp_path: Path) -> str:
    url = f"sqlite://{tmp_path}/test.db"
    Client.open(url, by="me@here", creates=True).close()
    return url


def test_there_are_so_many_places_for_streams(tmp_path: Path) -> None:
    assert (Limits().in_all, Limits().each, Limits().life_seconds, Limits().comment_seconds) == (500, 20, 3600, 15)
    with web.serving(url_of(tmp_path), streams=Limits(in_all=3, each=2)) as server, ExitStack() as stack:
        for role in ("read", "read", "admin"):
            stack.enter_context(server.follow("/overview/events", role=role))
        for role, status, code in (("read", 503, "busy"), ("operate", 503, "busy")):
            reply = server.get("/overview/events", role=role)
            assert (reply.status, reply.code, reply.headers["retry-after"]) == (status, code, "5")
        assert server.get("/overview", role="read").status == 200, "what is no stream takes no place"
        stack.close()
        with ExitStack() as two:
            wait_until(lambda: server.get("/overview/events", role="read").status == 200, 30, "no place is free again")
            for _ in range(2):
                wait_until(lambda: _is_open(server, two, "read"), 30, "no place is free again")
            reply = server.get("/overview/events", role="read")
            assert (reply.status, reply.code) == (429, "too_many")
            assert server.get("/overview/events", role="operate").status == 200
        text = server.get("/metrics", base="").text
        assert 'disbatch_web_refused_total{what="streams"}' in text


def _is_open(server: web.Web, stack: ExitStack, role: str) -> bool:
    with contextlib.suppress(AssertionError):
        stack.enter_context(server.follow("/overview/events", role=role))
        return True
    return False


def test_a_stream_shows_that_it_lives_and_ends_with_its_time(tmp_path: Path) -> None:
    limits = Limits(life_seconds=2.0, comment_seconds=0.05)
    with web.serving(url_of(tmp_path), streams=limits) as server, server.follow("/overview/events") as stream:
        assert stream.until("bye")[-1].data == {"why": "hour"} and stream.next() is None
        assert b":\n" in stream.lines


def test_a_stream_ends_with_the_token_of_whoever_reads_it(tmp_path: Path) -> None:
    limits = Limits(comment_seconds=0.1)
    with web.serving(url_of(tmp_path), streams=limits) as server, ExitStack() as stack:
        removed, other = (
            stack.enter_context(server.follow("/overview/events", role=role)) for role in ("read", "admin")
        )
        again = [stack.enter_context(server.follow("/overview/events", role="read")) for _ in range(12)]
        removed.until("overview")
        server.sign_out("read")
        for one in again:
            assert one.until("bye")[-1].data == {"why": "signed_out"}
        assert removed.until("bye")[-1].data == {"why": "signed_out"}
        server.let_expire("operate", 5)
        brief = stack.enter_context(server.follow("/overview/events", role="operate"))
        assert brief.until("bye")[-1].data == {"why": "signed_out"}
        other.until("overview")
        assert server.get("/queues").status == 200, "streams that end are no wrong tokens"


def test_a_download_goes_on_when_the_store_is_back(tmp_path: Path) -> None:
    url, size = url_of(tmp_path), 24 * 2**20
    with Client.open(url, by="me@here") as client:
        client.queues.create("q", "Greet")
        task = run_that_prints(client, size)
    there = size // PIECE * PIECE
    with web.serving(url) as server, ExitStack() as stack:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        stack.callback(connection.close)
        token = {"Authorization": f"Bearer {server.tokens['admin']}"}
        connection.request("GET", f"{server.base}/tasks/{task}/output/stdout", headers=token)
        response = connection.getresponse()
        _wait_until_full(connection.sock)
        aside = tmp_path / "aside"
        aside.mkdir()
        for one in tmp_path.glob("test.db*"):
            one.rename(aside / one.name)
        wait_until(lambda: server.get("/queues").status == 503, 60, "it is still answered")
        received = len(response.read(2**20))  # now more of it is wanted
        for one in aside.iterdir():
            one.rename(tmp_path / one.name)
        assert received + len(response.read()) == there


def test_a_download_takes_one_store_for_a_piece_at_a_time(tmp_path: Path) -> None:
    """More readers who take nothing than there are stores: everybody else is served."""
    url = url_of(tmp_path)
    with Client.open(url, by="me@here") as client, web.serving(url) as server, ExitStack() as stack:
        client.queues.create("q", "Greet")
        task = run_that_prints(client, 24 * 2**20)
        readers = []
        for _ in range(8):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            stack.callback(connection.close)
            token = {"Authorization": f"Bearer {server.tokens['admin']}"}
            connection.request("GET", f"{server.base}/tasks/{task}/output/stdout", headers=token)
            readers.append(connection.getresponse())
        for _ in range(5):
            assert server.get("/queues").status == 200
        assert {one.status for one in readers} == {200}

        def is_all_free() -> bool:
            figures = server.get("/metrics", base="").text
            return 'disbatch_web_streams{kind="download"} 8\n' in figures and "disbatch_web_pool_lent 0\n" in figures

        wait_until(is_all_free, 30, server.get("/metrics", base="").text)

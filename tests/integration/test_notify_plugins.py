"""Notify::Webhook and Notify::Mail against servers on this machine, through the very run of a node."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from disbatch_host.plugin.catalog import Catalog, load_plugins
from disbatch_host.plugin.new import bundled
from disbatch_host.trial.local_host import LocalResult, run_once

TOLD: dict[str, Any] = {
    "batch": "march", "total": 20, "created": 20, "existing": 5, "skipped": 60, "concluded": 17, "failed": 3,
    "cancelled": 0, "orphaned": 0, "seconds": 3725.5,
    "causes": [{"key": "0a1b2c3d", "text": "timeout", "count": 2}, {"key": "ffffffff", "text": "exit_1", "count": 1}],
}  # fmt: skip
SECRET = "s3cr3t-t0ken"
REPORT = """\
Batch march is done after 1 h 2 min.

Of its 20 tasks
      17 concluded: they did what they should
       3 failed

Of the rows that it was made from
      20 became tasks
       5 became none, since the same was waiting or running already
      60 became none, since they did not fit

Why tasks failed
       2 x timeout (key 0a1b2c3d)
       1 x exit_1 (key ffffffff)"""
OF_SOURCE = ("created", "existing", "skipped")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    directory = tmp_path_factory.mktemp("bundled")
    source = bundled.source_directory() / "python"
    for name in ("notify-webhook", "notify-mail"):
        home = directory / name
        home.mkdir(mode=0o755)
        for file in (source / name).iterdir():
            if file.is_file():
                (home / file.name).write_bytes(file.read_bytes())
                (home / file.name).chmod(0o755)
    return load_plugins([directory])


class WebServer(ThreadingHTTPServer):
    """Remembers what it gets; its paths are the statuses that it answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[dict[str, str], Any]] = []

    def url(self, status: int) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{status}"


class Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), json.loads(body)))
        status = int(self.path[1:])
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", self.server.url(200))
        self.end_headers()
        self.wfile.write(b"because")

    def log_message(self, *_: object) -> None:
        """Not into the test's output."""


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mail, and answers as it is told to."""

    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.answers: dict[str, str] = {}  # to the commands that begin so
        self.said: list[str] = []
        self.mail = ""


class Session(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self.say("220 here")
        while line := self.rfile.readline().decode().rstrip("\r\n"):
            self.server.said.append(line)
            word = line.split(":")[0].split(" ")[0].upper()
            answer = self.server.answers.get(word, "354 go on" if word == "DATA" else "250 fine")
            if answer == "lost":
                return
            self.say(answer)
            if word == "DATA" and answer.startswith("354"):
                while (text := self.rfile.readline().decode()) != ".\r\n":
                    self.server.mail += text
                if self.server.answers.get("end") == "lost":
                    return
                self.say("250 taken")
            if word == "QUIT":
                return

    def say(self, answer: str) -> None:
        self.wfile.write(f"{answer}\r\n".encode())


@pytest.fixture
def web() -> Iterator[WebServer]:
    yield from running(WebServer())


@pytest.fixture
def mail() -> Iterator[MailServer]:
    yield from running(MailServer())


def running(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run(catalog: Catalog, name: str, **parameters: Any) -> tuple[int, str, LocalResult]:
    result = run_once(catalog.plugins[name], parameters)
    words = b"".join(result.output.values()).decode()
    assert SECRET not in words and SECRET not in json.dumps(result.document["run"], default=str)
    return result.document["run"]["exit_code"], words, result


def test_a_webhook_gets_what_came_of_a_batch(catalog: Catalog, web: WebServer) -> None:
    code, words, _ = run(catalog, "Notify::Webhook", url=web.url(200), token=SECRET, **TOLD)
    ((headers, body),) = web.got
    assert code == 0 and "took it (200)" in words and headers["Authorization"] == f"Bearer {SECRET}"
    assert body.pop("text") == (
        "batch march is done after 3726 s: 20 tasks, 17 concluded, 3 failed (2 x timeout, 1 x exit_1); "
        "60 rows skipped, since they did not fit; 5 rows left out, since the same was waiting or running already"
    )
    assert body == TOLD
    run(
        catalog,
        "Notify::Webhook",
        url=web.url(204),
        field="content",
        text="{failed} of {total} {fine} <{batch}>, {skipped} skipped",
        **TOLD,
    )
    assert web.got[-1][1]["content"] == "3 of 20 {fine} <march>, 60 skipped"


@pytest.mark.parametrize(("status", "code"), [(400, 4), (404, 4), (302, 4), (429, 75), (500, 75), (503, 75)])
def test_what_a_webhook_answers_says_whether_it_is_tried_again(
    catalog: Catalog, web: WebServer, status: int, code: int
) -> None:
    found, words, result = run(catalog, "Notify::Webhook", url=web.url(status), token=SECRET, text="x")
    assert found == code and result.document["error"]["code"] == f"http_{status}" and f"answers {status}" in words
    assert len(web.got) == 1  # nobody else gets the token


def test_a_mail_says_what_came_of_a_batch(catalog: Catalog, mail: MailServer) -> None:
    where = {"host": "127.0.0.1", "port": mail.server_address[1], "from": "host@example.com"}
    code, words, result = run(catalog, "Notify::Mail", to=["ann@example.com", "bob@example.com"], **where, **TOLD)
    assert code == 0 and "sent to ann@example.com, bob@example.com" in words
    assert "Subject: Batch march: 17 of 20 concluded, 3 failed, 60 rows skipped" in mail.mail.replace("\r\n ", " ")
    assert mail.mail.replace("\r\n", "\n").rstrip().endswith(REPORT)
    assert [one for one in mail.said if one.startswith("rcpt")] == [
        "rcpt TO:<ann@example.com>",
        "rcpt TO:<bob@example.com>",
    ]
    assert result.document["result"]["refused"] == []
    run(catalog, "Notify::Mail", to="ann@example.com", **where, **{**TOLD, "concluded": 9, "cancelled": 8})
    assert "Subject: Batch march: 9 of 20 concluded, 3 failed, 8 cancelled, 60 rows" in mail.mail.replace("\r\n ", " ")
    none = {"concluded": 0, "failed": 0, "cancelled": 20, "skipped": 0, "causes": []}
    run(catalog, "Notify::Mail", to="ann@example.com", **where, **{**TOLD, **none})
    assert "Subject: Batch march: cancelled, all 20" in mail.mail
    run(
        catalog,
        "Notify::Mail",
        to="ann@example.com",
        subject="{batch}: {failed}",
        text="all {total}\n",
        **where,
        **TOLD,
    )
    assert "Subject: march: 3" in mail.mail and "all 20" in mail.mail


@pytest.mark.parametrize(
    ("word", "answer", "code", "error"),
    [
        ("RCPT", "550 nobody", 4, "recipients"),
        ("RCPT", "451 later", 75, "recipients"),
        ("MAIL", "421 busy", 75, "smtp_421"),
        ("DATA", "554 no", 4, "smtp_554"),
        ("end", "lost", 4, "unclear"),
        ("MAIL", "lost", 4, "unclear"),
    ],
)
def test_what_a_mail_server_answers_says_whether_it_is_tried_again(
    catalog: Catalog, mail: MailServer, word: str, answer: str, code: int, error: str
) -> None:
    mail.answers[word] = answer
    where = {"host": "127.0.0.1", "port": mail.server_address[1], "from": "host@example.com"}
    found, _, result = run(catalog, "Notify::Mail", to="ann@example.com", text="x", **where)
    assert found == code and result.document["error"]["code"] == error


def test_a_line_end_in_a_subject_adds_no_header(catalog: Catalog, mail: MailServer) -> None:
    where = {"host": "127.0.0.1", "port": mail.server_address[1], "from": "host@example.com"}
    found, words, _ = run(catalog, "Notify::Mail", to="ann@example.com", subject="x\nBcc: eve@example.com", **where)
    assert found == 4 and "cannot be made" in words and mail.mail == ""


def test_a_password_is_not_sent_over_a_connection_that_does_not_offer_it(catalog: Catalog, mail: MailServer) -> None:
    where = {"host": "127.0.0.1", "port": mail.server_address[1], "from": "host@example.com"}
    found, _, result = run(catalog, "Notify::Mail", to="ann@example.com", user="u", password=SECRET, text="x", **where)
    assert found == 4 and result.document["error"]["code"] == "unsupported" and mail.mail == ""


def test_its_manifests_accept_what_a_batch_tells(catalog: Catalog) -> None:
    for name, more in (("Notify::Webhook", {"url": "http://x/"}), ("Notify::Mail", {"to": "a@b.c"})):
        plugin = catalog.plugins[name]
        assert not plugin.warnings and plugin.schema.check({**TOLD, **more}) == ()


def test_a_node_of_the_version_before_tells_nothing_of_the_rows(catalog: Catalog, mail: MailServer) -> None:
    where = {"host": "127.0.0.1", "port": mail.server_address[1], "from": "host@example.com"}
    before = {name: value for name, value in TOLD.items() if name not in OF_SOURCE}
    code, _, _ = run(catalog, "Notify::Mail", to="ann@example.com", **where, **before)
    assert code == 0 and "17 concluded" in mail.mail and "rows" not in mail.mail

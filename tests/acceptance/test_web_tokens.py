"""Tokens at the terminal, and the server that keeps to them as a process: what it prints, logs and shows of itself."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from acceptance.conftest import PROGRAM, Terminal
from helpers.processes import wait_until

TOKEN = re.compile(r"dsb_[a-z2-9]{6}_[\w-]{43}")


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "web.json")


def add(terminal: Terminal, file: str, *words: str) -> str:
    """The text of a new token."""
    return terminal.fine("web", "token", "add", *words, "--tokens", file).out.strip()


def test_a_token_is_shown_once_and_its_digest_kept(terminal: Terminal, file: str) -> None:
    text = add(terminal, file, "ann", "--role", "operate", "--queue", "mail", "--expires", "90d")
    assert TOKEN.fullmatch(text)
    path = Path(file)
    assert path.stat().st_mode & 0o777 == 0o600
    assert text not in path.read_text() and text.rpartition("_")[2] not in path.read_text()
    (kept,) = json.loads(path.read_text())["tokens"]
    assert (kept["name"], kept["role"], kept["queues"]) == ("ann", "operate", ["mail"])
    assert kept["sha256"] == hashlib.sha256(text.encode()).hexdigest() and kept["id"] == text.split("_")[1]
    assert kept["expires"].startswith("20")
    listed = terminal.fine("web", "token", "list", "--tokens", file).out
    assert "ann" in listed and "operate" in listed and "mail" in listed and text not in listed
    assert kept["sha256"] not in terminal.fine("web", "token", "list", "--tokens", file, "--json").out


def test_a_token_is_removed_by_its_id_or_its_name(terminal: Terminal, file: str) -> None:
    ann, *_ = [add(terminal, file, "ann"), add(terminal, file, "ann"), add(terminal, file, "bob")]
    assert "removed 1 token" in terminal.fine("web", "token", "remove", ann.split("_")[1], "--tokens", file).out
    assert "did you mean 'bob'?" in terminal.refused(4, "web", "token", "remove", "bobb", "--tokens", file)
    assert "removed 1 token" in terminal.fine("web", "token", "remove", "ann", "--tokens", file).out
    assert [one["name"] for one in terminal.fine("web", "token", "list", "--tokens", file, "--json").json] == ["bob"]


@pytest.mark.parametrize("name", ["", "a b", "ann\n", "-x", "<b>", "x" * 65, "é"])
def test_a_name_that_a_log_cannot_show_is_refused(terminal: Terminal, file: str, name: str) -> None:
    assert "NAME" in terminal.refused(2, "web", "token", "add", "--tokens", file, "--", name)
    assert not Path(file).exists()


def test_a_file_that_others_could_use_is_not_used(terminal: Terminal, file: str) -> None:
    add(terminal, file, "ann")
    Path(file).chmod(0o640)
    for words in (("web", "token", "list"), ("web", "token", "add", "bob"), ("web", "--listen", "127.0.0.1:0")):
        assert f"chmod 600 {file}" in terminal.refused(2, *words, "--tokens", file)
    Path(file).chmod(0o600)
    Path(file).write_text("{}")
    assert "is not a file of tokens" in terminal.refused(2, "web", "token", "list", "--tokens", file)


def test_only_this_machine_is_served_before_there_are_tokens(terminal: Terminal, file: str) -> None:
    terminal.fine("queue", "create", "q", "--class", "Greet")
    for host in ("0.0.0.0", "", "[::]"):
        refused = terminal.refused(2, "web", "--listen", f"{host}:0")
        assert "there is no file of tokens; `disbatch-host web token add NAME --role read` makes one" in refused
        assert "--no-auth is only for" in terminal.refused(2, "web", "--listen", f"{host}:0", "--no-auth")


@dataclass(frozen=True)
class Served:
    """`disbatch-host web` as a process."""

    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def said(self) -> str:
        return (self.directory / "out").read_text()

    @property
    def log(self) -> str:
        return (self.directory / "err").read_text()

    def ask(self, path: str, token: str | None = None, *, method: str = "GET", **headers: str) -> tuple[int, Any]:
        found = re.search(r"serving on http://127\.0\.0\.1:(\d+)/", self.said)
        assert found is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        with contextlib.closing(connection):
            given = {} if token is None else {"Authorization": f"Bearer {token}"}
            connection.request(method, path, headers={**given, **headers})
            reply = connection.getresponse()
            data = reply.read()
            is_json = "json" in (reply.getheader("Content-Type") or "")
            return reply.status, json.loads(data) if is_json else data.decode()


@contextlib.contextmanager
def serving(terminal: Terminal, directory: Path, *options: str, more: Mapping[str, str] = {}) -> Iterator[Served]:
    terminal.fine("queue", "create", "mail", "--class", "Greet")
    command = [str(PROGRAM), "web", "--listen", "127.0.0.1:0", "--log-level", "debug", *options]
    with (directory / "out").open("wb") as out, (directory / "err").open("wb") as err:
        process = subprocess.Popen(
            command, stdout=out, stderr=err, cwd=terminal.directory, env={**terminal.environment, **more}
        )
    served = Served(process, directory)
    try:
        wait_until(lambda: "serving on" in served.said or process.poll() is not None, 60, "the server")
        assert process.poll() is None, served.log
        yield served
    finally:
        process.kill()
        process.wait(30)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()


def test_without_a_file_one_address_signs_in_and_is_said_once(terminal: Terminal, tmp_path: Path) -> None:
    with serving(terminal, tmp_path) as served:
        wait_until(lambda: TOKEN.search(served.said), 30, "the address")
        assert re.search(r"http://127\.0\.0\.1:\d+/login#t=dsb_", served.said)
        (token,) = TOKEN.findall(served.said)
        assert served.ask("/api/v1/me", token)[1]["role"] == "admin"
        assert served.ask("/api/v1/queues")[0] == 401, "also on a loopback address"
        assert served.ask("/queues")[0] == 303


def test_a_token_is_in_no_log_and_no_list_of_processes(terminal: Terminal, tmp_path: Path, file: str) -> None:
    token = add(terminal, file, "ann", "--role", "admin")
    secret, wrong = token.rpartition("_")[2], "dsb_abcdef_" + "W" * 43
    with serving(terminal, tmp_path, "--tokens", file) as served:
        assert served.ask("/api/v1/queues/mail/pause", token, method="POST")[0] == 200
        assert served.ask("/api/v1/queues", wrong)[0] == 401
        assert served.ask(f"/queues?token={token}", token)[0] in (200, 400)
        assert served.ask(f"/nothing/{token}", token)[0] == 404
        status, _ = served.ask("/login", method="POST", **{"Sec-Fetch-Site": "same-origin", "X-T": token})
        assert status == 401
        assert secret not in command_line(served.process.pid)
        assert "ann from 127.0.0.1: POST /queues/{q}/pause (q 'mail') -> 200" in served.log
        assert secret not in served.log and "WWWW" not in served.log and secret not in served.said
        status, body = served.ask("/metrics", token)
        assert status == 200 and secret not in body


def test_a_file_that_changes_is_read_again_and_one_that_becomes_unusable_lets_nobody_in(
    terminal: Terminal, tmp_path: Path, file: str
) -> None:
    ann = add(terminal, file, "ann")
    with serving(terminal, tmp_path, "--tokens", file) as served:
        assert served.ask("/api/v1/me", ann)[1]["principal"] == "ann"
        bob = add(terminal, file, "bob")
        assert served.ask("/api/v1/me", bob)[1]["principal"] == "bob"
        terminal.fine("web", "token", "remove", "ann", "--tokens", file)
        assert served.ask("/api/v1/me", ann)[0] == 401
        Path(file).chmod(0o644)
        status, problem = served.ask("/api/v1/me", bob)
        assert status == 401 and "chmod 600" in problem["detail"]
        Path(file).chmod(0o600)
        assert served.ask("/api/v1/me", bob)[0] == 200
        Path(file).write_text(Path(file).read_text().replace('"bob"', '"eve"'))
        assert served.ask("/api/v1/me", bob)[1]["principal"] == "eve"
        served.process.send_signal(signal.SIGHUP)
        assert served.ask("/api/v1/me", bob)[1]["principal"] == "eve", "SIGHUP ends nothing"


def test_every_start_without_signing_in_warns(terminal: Terminal, tmp_path: Path) -> None:
    with serving(terminal, tmp_path, "--no-auth") as served:
        wait_until(lambda: "nobody needs to sign in" in served.log, 30, served.log)
        assert "WARNING" in served.log.upper() and "login#t=" not in served.said
        assert served.ask("/api/v1/me")[1]["role"] == "admin"
        assert served.ask("/api/v1/queues/mail/pause", method="POST", **{"Sec-Fetch-Site": "cross-site"})[0] == 403


def test_a_secret_of_a_proxy_is_in_a_private_file(terminal: Terminal, tmp_path: Path) -> None:
    terminal.fine("queue", "create", "mail", "--class", "Greet")
    secret = tmp_path / "secret"
    proxy = ("web", "--listen", "127.0.0.1:0", "--proxy-user-header", "X-User", "--proxy-from", "127.0.0.1/32")
    for words, said in (
        (("--proxy-secret", str(secret)), "cannot be read"),
        (("--proxy-group", "ops=operate"), "expected --proxy-group and --proxy-groups-header together"),
        (("--proxy-group", "ops", "--proxy-groups-header", "X-Groups"), "expected a group and its role"),
    ):
        assert said in terminal.refused(2, *proxy, *words)
    secret.write_text("s3cret\n")
    secret.chmod(0o644)
    assert "chmod 600" in terminal.refused(2, *proxy, "--proxy-secret", str(secret))
    secret.write_text("")
    secret.chmod(0o600)
    assert "is empty" in terminal.refused(2, *proxy, "--proxy-secret", str(secret))


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "jinja2", "python_multipart"])
def test_without_its_extra_it_says_how_to_get_it(terminal: Terminal, package: str) -> None:
    terminal.fine("queue", "create", "mail", "--class", "Greet")
    program = (
        f"import sys; sys.modules[{package!r}] = None; from disbatch_host.cli.main import main; "
        "sys.argv = ['disbatch-host', 'web', '--listen', '127.0.0.1:0']; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=terminal.directory,
        env=terminal.environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done
    assert "disbatch-host web needs its extra: pip install 'disbatch-host[web]'" in done.stderr

"""docs/any-program.md, typed as it stands: each section by itself, in a directory of its own, where its program is."""

from __future__ import annotations

import base64
import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acceptance.conftest import PROGRAM, Terminal
from acceptance.test_help import calls, parse
from acceptance.test_plugins_guide import commands, pattern
from conftest import skip_or_fail
from disbatch_protocol.manifest import parse_manifest

PAGE = Path(__file__).parents[2] / "docs/any-program.md"
SECTIONS = {
    title: text
    for title, text in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    if "```console" in text
}
NEEDS = {
    "From a command line to a plugin": "ffmpeg", "rsync": "rsync", "pg_dump": "pg_dump", "curl": "curl",
    "A Nagios check": "/usr/lib/nagios/plugins/check_tcp",
}  # fmt: skip


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind, _, rest = self.headers.get("Authorization", " ").partition(" ")
        user, _, password = base64.b64decode(rest).decode().partition(":")
        self.send_response(200 if (kind, password) == ("Basic", "secret") else 401)
        self.end_headers()
        self.wfile.write(f"hello {user}\n".encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a server that greets those who know its password."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of the socket of a server of its own, which takes two seconds to make."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if not homes:
        skip_or_fail("no server of PostgreSQL below /usr/lib/postgresql")
    directory = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    data, socket = directory / "data", directory
    account = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    if account:
        shutil.chown(directory, "postgres", "postgres")
    directory.chmod(0o755)
    options = f"-k {socket} -c listen_addresses= -c fsync=off -c unix_socket_permissions=0777"

    def call(*words: str) -> None:
        done = subprocess.run(words, cwd="/", capture_output=True, text=True, check=False, **account)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr

    control = str(homes[0].with_name("pg_ctl"))
    try:
        call(str(homes[0]), "--no-sync", "-A", "trust", "-U", "postgres", "-D", str(data))
        call(control, "-D", str(data), "-w", "-l", str(directory / "log"), "-o", options, "start")
        yield socket
        call(control, "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("title", SECTIONS)
def test_every_step_of_a_section_does_what_it_shows(
    terminal: Terminal, title: str, request: pytest.FixtureRequest, web: int, require: Callable[[str], None]
) -> None:
    require(NEEDS[title])
    require("jq")
    text = SECTIONS[title].replace("8080", str(web))
    if "postgresql" in text:
        text = text.replace("/run/postgresql", str(request.getfixturevalue("postgres")))
    for language, block in re.findall(r"^```(sh|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for command, expected in [(block, [])] if language == "sh" else commands(block):
            code, output = typed(terminal, command)
            output += f"[exit code {code}]\n" if code else ""
            assert re.fullmatch(pattern(expected), output), f"$ {command}\n{output}\n--- the page says\n{expected}"


def typed(terminal: Terminal, command: str) -> tuple[int, str]:
    """Its exit code, and what it shows. Only what needs a shell has one: each process of the program takes a second."""
    if command.startswith("disbatch-host ") and "$(" not in command:
        done = terminal(*shlex.split(command.replace("$PWD", str(terminal.directory)))[1:])
        return done.code, done.out + done.err
    path = f"{PROGRAM.parent}{os.pathsep}{terminal.environment['PATH']}"
    shell = subprocess.run(
        ["bash", "-c", f"set -e\n{command}"], cwd=terminal.directory, env={**terminal.environment, "PATH": path},
        text=True, check=False, timeout=60,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return shell.returncode, shell.stdout


def test_each_section_with_commands_is_typed() -> None:
    assert list(SECTIONS) == list(NEEDS)


def test_the_manifests_that_are_not_typed_have_no_fault() -> None:
    found = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert [json.loads(one)["name"] for one in found] == ["Mail::Sync"]
    for one in found:
        assert parse_manifest(one.encode(), directory_name="x").faults == ()


def test_every_command_on_the_page_is_one() -> None:
    lines = [command for text in SECTIONS.values() for command in re.findall(r"^\$ (disbatch-host .+)$", text, re.M)]
    assert len(lines) > 15
    for line in lines:
        for words in calls(line):
            parse(words)

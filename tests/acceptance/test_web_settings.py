"""`disbatch-host web` by its options and by the configuration file; the option wins."""

from __future__ import annotations

import http.client
import re
import subprocess
from pathlib import Path

import pytest

from acceptance.conftest import PROGRAM, Terminal

WRONG = [
    (("--listen", "unix:relative"), "", "--listen: expected unix: and an absolute path"),
    (("--base-path", "no-slash"), "", "--base-path: expected a path like /disbatch"),
    ((), '"base_path": "no-slash"', "--base-path: expected a path like /disbatch"),
    ((), '"public_url": ["ftp://x"]', "--public-url: expected a URL"),
    (("--upload-max", "much"), "", "--upload-max: expected bytes or a size"),
    ((), '"upload_max": -1', "--upload-max: expected bytes or a size"),
    ((), '"listen": "0.0.0.0:0", "no_auth": true', "--no-auth is only for a loopback address"),
    ((), '"proxy_from": "unix"', "--proxy-user-header and --proxy-from together"),
    ((), '"tokens": "/no/such/file"', "/no/such/file cannot be read"),
    (("--spool", "/proc/no/place"), "", "--spool: /proc/no/place cannot be used"),
]


@pytest.mark.parametrize(("options", "file", "words"), WRONG)
def test_what_cannot_be_is_said_in_a_line(
    terminal: Terminal, tmp_path: Path, options: tuple[str, ...], file: str, words: str
) -> None:
    config = tmp_path / "host.json"
    config.write_text(f'{{"web": {{{file}}}}}')
    terminal.fine("queue", "create", "q", "--class", "Greet")
    listen = () if "--listen" in options or "listen" in file else ("--listen", "127.0.0.1:0")
    assert words in terminal.refused(2, "--config", str(config), "web", *listen, *options)


def test_without_a_file_of_tokens_the_first_lines_say_how_to_sign_in_and_for_how_long(terminal: Terminal) -> None:
    """ "Once" was read as: the token works once."""
    if Path("/etc/disbatch/web.json").exists():
        pytest.skip("this machine has a file of tokens")
    command = [str(PROGRAM), "web", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=terminal.directory, env=terminal.environment
    ) as server:
        assert server.stdout is not None
        try:
            serving, sign_in, how_long = (server.stdout.readline() for _ in range(3))
            host, token = re.fullmatch(r"sign in: http://(\S+)/login#t=(\S+)\n", sign_in).groups()  # type: ignore[union-attr]
            assert serving == f"serving on http://{host}/\n"
            assert how_long.startswith("this token works until the server ends, and is not shown again; ")
            for _ in range(2):  # as often as somebody wants
                connection = http.client.HTTPConnection(host, timeout=30)
                connection.request("GET", "/api/v1/me", headers={"Authorization": f"Bearer {token}"})
                assert connection.getresponse().status == 200
                connection.close()
        finally:
            server.terminate()

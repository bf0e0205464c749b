"""`disbatch-host web` by its options and by the configuration file; the option wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance.conftest import Terminal

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

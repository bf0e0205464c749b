"""docs/web.md and its unit say what is true, and its pictures are there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

from acceptance.conftest import PROGRAM
from acceptance.test_help import calls, parse
from disbatch_host.settings import written
from disbatch_host.settings.web_table import WEB_SETTINGS
from disbatch_host.web import app, identity, pool, sending, server
from disbatch_protocol.quantities import parse_duration

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "web.md"
UNIT = DOCS / "disbatch-web.service"
PICTURES = DOCS / "web"


def text() -> str:
    return PAGE.read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text(), re.MULTILINE | re.DOTALL)


def test_every_command_of_the_page_is_one() -> None:
    lines = [
        line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines() if "disbatch-host " in line
    ]
    assert len(lines) > 6
    for line in lines:
        if line.startswith("pip "):
            continue
        for words in calls(line[line.index("disbatch-host ") :].replace("/opt/disbatch/venv/bin/", "")):
            parse(words)


def test_the_limits_of_the_page_are_those_of_the_program() -> None:
    for words in (
        f"{app.CHANGES_PER_SECOND} a second", f"within {server.HEADER_SECONDS:.0f} seconds",
        f"| streams | {sending.Limits().in_all}, and {sending.Limits().each} of one person",
        f"lasts {identity.SESSION_SECONDS // 3600} hours", f"{pool.WAIT_SECONDS:.0f} seconds, then 503",
        f"for {server.STOP_SECONDS and 'ten'} seconds",
    ):  # fmt: skip
        assert words in text(), words


def test_the_example_of_a_configuration_is_one() -> None:
    import jsonschema

    for block in blocks("json"):
        jsonschema.validate(json.loads(block), written.config_schema())
    for name in re.findall(r"`(--[a-z-]+)[ `]", text()):
        known = {one.option for one in WEB_SETTINGS} | {"--role", "--queue", "--expires", "--web"}
        assert name in known, name


def unit() -> Any:
    parser = ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_the_unit_starts_the_page_with_as_little_as_it_needs() -> None:
    service = unit()
    program, *words = service["ExecStart"].split()
    assert program.endswith("/bin/disbatch-host")
    parse(words)
    assert parse_duration(service["TimeoutStopSec"]) > server.STOP_SECONDS + 5
    hardened = {
        "User": "disbatch",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "NoNewPrivileges": "yes",
        "PrivateTmp": "yes",
    }
    assert hardened.items() <= dict(service).items() and service["CapabilityBoundingSet"] == ""
    assert service["ExecReload"].endswith("kill -HUP $MAINPID") and service["RestartPreventExitStatus"] == "2"
    tokens = words[words.index("--tokens") + 1]
    assert f"--tokens {tokens}" in text() and "DISBATCH_STORE" not in service.get("Environment", "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """With a program and an account that this machine has."""
    copy = tmp_path / UNIT.name
    found = UNIT.read_text().replace("/opt/disbatch/venv/bin/disbatch-host", str(PROGRAM))
    copy.write_text(found.replace("User=disbatch", "User=root").replace("Group=disbatch", "Group=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if copy.name in line] == [] and done.returncode == 0, done.stderr


def test_pictures_are_small_and_each_is_shown() -> None:
    files = sorted(PICTURES.iterdir())
    assert len(files) >= 12 and sum(one.stat().st_size for one in files) <= 600_000
    for one in files:
        assert one.read_bytes()[8:12] == b"WEBP" and f"web/{one.name}" in text(), one.name
    assert {re.sub(r"^\w+-", "", one.stem) for one in files} == {
        f"{scheme}-{width}" for scheme in ("light", "dark") for width in (1280, 640, 390)
    }

"""Screens that renew themselves, in a real Chromium: what moves and what does not, streams, trouble, keys."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from disbatch_host.client import Client
from helpers import web
from helpers.nodes import write_plugin

# One browser does everything in the set-up of the first test.
pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

HERE = Path(__file__).parent / "browser"
FLOWS = re.findall(r'^  async "([^"]+)"\(', (HERE / "live.mjs").read_text(), re.MULTILINE)


def fill(client: Client) -> None:
    for name in ("flowing", "hovered", "selected", "many", "waved"):
        client.queues.create(name, "Greet")
    for name, count in (("hovered", 5), ("selected", 3), ("many", 60)):
        client.push_many(name, [{"user": f"u{n}"} for n in range(count)])
    client.push_many("waved", [{"user": f"u{n}"} for n in range(9)], batch="wave")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, browser_packages: None) -> Mapping[str, list[str]]:
    """What was wrong in each flow."""
    directory = tmp_path_factory.mktemp("live")
    schema = {"type": "object", "required": ["user"], "properties": {"user": {"type": "string"}}}
    write_plugin(directory / "plugins", "Greet", "true", parameters=schema)
    url = f"sqlite://{directory}/test.db"
    with Client.open(url, plugins=[directory / "plugins"], by="ann@here", creates=True) as client:
        fill(client)
        with web.serving(url, [directory / "plugins"]) as server:
            told = {
                "base": f"http://127.0.0.1:{server.port}", "tokens": dict(server.tokens),
                "chromium": shutil.which("chromium"),
            }  # fmt: skip
            done = subprocess.run(
                ["node", HERE / "live.mjs"], input=json.dumps(told), capture_output=True, text=True, timeout=380,
                check=False,
            )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {one["flow"]: one["problems"] for one in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("flow", FLOWS)
def test_a_screen_goes_on(found: Mapping[str, list[str]], flow: str) -> None:
    assert found[flow] == []

"""What the page knows of an output that it has parts of, without a browser."""

from __future__ import annotations

import json
import subprocess

import pytest

from disbatch_host.web.pages import assets
from helpers.driving import BROWSER

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_lines_are_the_same_however_they_come(browser_packages: None, seed: int) -> None:
    told = {"static": str(assets.DIRECTORY), "seed": seed, "rounds": 300}
    done = subprocess.run(
        ["node", BROWSER / "check_lines.mjs"], input=json.dumps(told), capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == []

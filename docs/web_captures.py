"""Draws the pictures in `docs/web/`: screens of the page, of a real node on the store of `disbatch-host demo --web`.

    make browser
    .venv/bin/python docs/web_captures.py docs/web

It takes two minutes, and Chromium. Nothing on the pictures is retouched.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "tests" / "web" / "browser" / "capture.mjs"
DEMO = [sys.executable, "-m", "disbatch_host", "demo", "--web", "--listen", "127.0.0.1:0"]
ENDED = 2400  # tasks, before anything is drawn: of three thousand, so that some still wait
SCHEMES, WIDTHS = ("light", "dark"), (1280, 640, 390)


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True, cwd=home)
        try:
            base, token = _address(demo)
            while _count(base, token, status="finished") < ENDED:
                time.sleep(1)
            told = {
                "base": base, "tokens": {"admin": token}, "chromium": shutil.which("chromium"), "schemes": SCHEMES,
                "widths": WIDTHS, "directory": str(directory.resolve()), "screens": _screens(base, token),
            }  # fmt: skip
            subprocess.run(["node", SCRIPT], input=json.dumps(told) + "\n", text=True, check=True)
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait()


def _address(demo: subprocess.Popen[str]) -> tuple[str, str]:
    """Where it serves, and the token that it prints."""
    assert demo.stdout is not None
    for line in demo.stdout:
        if found := re.search(r"(http://\S+)/login#t=(\S+)", line):
            return found[1], found[2]
    raise SystemExit("the demo has ended without an address")


def _screens(base: str, token: str) -> dict[str, str]:
    failed = _ask(base, token, "/tasks", queue="mail", error="exit_3", limit=1)["items"][0]["_id"]
    return {"overview": "/", "failures": "/failures", "task": f"/tasks/{failed}"}


def _count(base: str, token: str, **query: Any) -> int:
    return int(_ask(base, token, "/tasks/count", **query)["value"])


def _ask(base: str, token: str, path: str, **query: Any) -> Any:
    address = f"{base}/api/v1{path}?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

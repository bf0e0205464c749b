"""Flows through the page in a real Chromium, as a script of Node.js has them; and what they ask of the test.

Responsible for: the process, and the lines between it and the test. Must not know: what is tested.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

BROWSER = Path(__file__).parents[1] / "web" / "browser"


def flows_of(script: str) -> list[str]:
    """The names of its flows."""
    return re.findall(r'^  async "([^"]+)"\(', (BROWSER / script).read_text(), re.MULTILINE)


def driven(
    script: str, told: Mapping[str, Any], answers: Mapping[str, Callable[..., Any]], *, within_seconds: float
) -> dict[str, list[str]]:  # fmt: skip
    """What was wrong in each flow. `answers`: what the script may ask for, by name."""
    found: dict[str, list[str]] = {}
    process = subprocess.Popen(
        ["node", BROWSER / script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    watchdog = threading.Timer(within_seconds, process.kill)
    watchdog.start()
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        _say(process, {**told, "chromium": shutil.which("chromium")})
        for line in process.stdout:
            one = json.loads(line)
            if "ask" in one:
                _say(process, answers[one.pop("ask")](**one))
            else:
                found[one["flow"]] = one["problems"]
        assert process.wait(30) == 0, "".join(errors)[-3000:]
        print("".join(errors), end="")
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
        process.wait(30)
        reader.join(30)
    return found


def _say(process: subprocess.Popen[str], what: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(what) + "\n")
    process.stdin.flush()

"""docs/batches.md, typed as it stands: each `sh` block is run, each command of a `console` block must show what the
page shows, on stdout and stderr together."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from acceptance.conftest import PROGRAM, Terminal
from acceptance.test_plugins_guide import commands, pattern

PAGE = Path(__file__).parents[2] / "docs/batches.md"


def test_every_step_of_the_page_does_what_it_shows(terminal: Terminal, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    environment = {
        **terminal.environment,
        "PATH": f"{PROGRAM.parent}{os.pathsep}{terminal.environment['PATH']}",
        "DISBATCH_STORE": f"sqlite://{place}/example.db",
    }
    steps = 0
    for language, text in re.findall(r"^```(sh|console)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for command, expected in [(text, None)] if language == "sh" else commands(text):
            done = subprocess.run(
                ["bash", "-c", f"set -e\n{command}"], cwd=place, env=environment, text=True, check=False, timeout=60,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            steps += 1
            shown = done.stdout + (f"[exit code {done.returncode}]\n" if done.returncode else "")
            if expected is None:
                assert done.returncode == 0, shown
            else:
                assert re.fullmatch(pattern(expected), shown), (command, shown)
    assert steps == 20

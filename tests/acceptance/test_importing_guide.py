"""docs/importing.md, typed as it stands: each `sh` block is run, each command of a `console` block must show what the
page shows, on stdout and stderr together."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from acceptance.conftest import PROGRAM, Terminal
from acceptance.test_plugins_guide import commands, pattern

PAGE = Path(__file__).parents[2] / "docs/importing.md"


def type_page(page: Path, terminal: Terminal, place: Path) -> int:
    """Type what a page shows, in a new directory; how many steps that were."""
    place.mkdir()
    environment = {
        **terminal.environment,
        "PATH": f"{PROGRAM.parent}{os.pathsep}{terminal.environment['PATH']}",
        "DISBATCH_STORE": f"sqlite://{place}/example.db",
    }
    steps = 0
    for language, text in re.findall(r"^```(sh|console)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        for command, expected in [(text, None)] if language == "sh" else commands(text):
            done = subprocess.run(
                ["bash", "-c", f"set -e\n{command}"], cwd=place, env=environment, text=True, check=False, timeout=60,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            steps += 1
            if expected is None:
                assert done.returncode == 0, done.stdout
            else:
                shown = done.stdout + (f"[exit code {done.returncode}]\n" if done.returncode else "")
                assert re.fullmatch(pattern(expected), shown), (command, shown)
    return steps


def test_every_step_of_the_page_does_what_it_shows(terminal: Terminal, tmp_path: Path) -> None:
    assert type_page(PAGE, terminal, tmp_path / "place") == 15

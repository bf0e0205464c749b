"""docs/your-own-script.md, typed as it stands, from top to bottom in one shell: each `sh` block must succeed, each
command of a `console` block must show what the page shows, on stdout and stderr together."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from acceptance.conftest import PROGRAM, Terminal
from acceptance.test_help import calls, parse
from acceptance.test_plugins_guide import commands, pattern

PAGE = Path(__file__).parents[2] / "docs/your-own-script.md"
END = "\0end of a step: "


def steps() -> list[tuple[str, list[str]]]:
    """Commands and the lines they show, in the order of the page."""
    found: list[tuple[str, list[str]]] = []
    for language, text in re.findall(r"^```(sh|console)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        found += [(text, [])] if language == "sh" else commands(text)
    return found


def test_every_step_of_the_page_does_what_it_shows(
    terminal: Terminal, tmp_path: Path, require: Callable[[str], None]
) -> None:
    require("jq")
    place = tmp_path / "an empty directory"
    place.mkdir()
    path = f"{PROGRAM.parent}{os.pathsep}{terminal.environment['PATH']}"
    script = tmp_path / "script"
    script.write_text("".join(f"{command}\nprintf '\\0end of a step: %s\\n' $?\n" for command, _ in steps()))
    done = subprocess.run(
        ["bash", str(script)], cwd=place, env={**terminal.environment, "PATH": path}, text=True, check=True,
        timeout=120, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    shown = re.split(f"{END}(\\d+)\n", done.stdout)
    outputs = [
        output + (f"[exit code {code}]\n" if code != "0" else "")
        for output, code in zip(shown[::2], shown[1::2], strict=False)
    ]
    assert len(outputs) == len(steps()) > 20, done.stdout
    for (command, expected), output in zip(steps(), outputs, strict=True):
        assert re.fullmatch(pattern(expected), output), f"$ {command}\n{output}\n--- the page says\n{expected}"


def test_every_command_in_the_text_is_one() -> None:
    lines = re.findall(r"`(disbatch-host [^`]+)`", PAGE.read_text())
    assert len(lines) > 3
    for line in lines:
        for words in calls(line):
            parse(words)

"""docs/plugins.md, typed as it stands: each `sh` block is run, each command of a `console` block must show what the
page shows. `…` on the page stands for anything, alone on a line for any number of lines."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from acceptance.conftest import PROGRAM, Terminal

PAGE = Path(__file__).parents[2] / "docs/plugins.md"
TEMPLATES = Path(__file__).parents[2] / "host/disbatch_host/plugin/new/templates"


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"^```([a-z-]+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def commands(console: str) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for line in console.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def pattern(lines: list[str]) -> str:
    """What a command may show; "…" stands for anything but an exit code. Incident: a page had a command that failed."""
    parts = []
    for line in lines:
        if line == "…":
            parts.append(r"(?:(?!\[exit code ).*\n)*?")
        else:
            parts.append(".*".join(re.escape(part) for part in line.split("…")) + r"\n")
    return "".join(parts)


def test_every_step_of_the_guide_does_what_the_page_shows(terminal: Terminal, require: Callable[[str], None]) -> None:
    require("python3")
    environment = {**terminal.environment, "PATH": f"{PROGRAM.parent}:{terminal.environment['PATH']}"}

    def run(script: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", script], cwd=terminal.directory, env=environment, text=True, check=False, timeout=60,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout

    steps = 0
    for language, text in blocks():
        if language == "sh":
            code, output = run(f"set -e\n{text}")
            assert code == 0, output
        for command, expected in commands(text) if language == "console" else ():
            code, output = run(command)
            if code != 0:
                output += f"[exit code {code}]\n"
            assert re.fullmatch(pattern(expected), output), f"$ {command}\n{output}\n--- the page says\n" + "\n".join(
                expected
            )
            steps += 1
    assert steps > 15


def test_the_cni_plugin_of_the_page_gets_what_the_task_says(terminal: Terminal) -> None:
    """With a program in the place of host-local that shows what it gets."""
    [script] = [text for language, text in blocks() if language == "sh" and "host-local" in text]
    subprocess.run(["bash", "-ec", script], cwd=terminal.directory, check=True)
    shown = terminal.directory / "host-local"
    shown.write_text('#!/bin/sh\necho "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME"\ncat\n')
    shown.chmod(0o755)
    manifest = terminal.directory / "plugins/address/plugin.json"
    manifest.write_text(manifest.read_text().replace('"/usr/lib/cni/host-local"', f'"{shown}"'))
    parameters = ("-p", "command=ADD", "-p", "container=c1", "-p", "network=@network.json")
    first, network = terminal.fine("exec", "Net::Address", *parameters).out.splitlines()
    assert first == "ADD c1 eth0"
    assert json.loads(network) == json.loads((terminal.directory / "network.json").read_text())


def test_the_programs_on_the_page_are_those_that_new_writes() -> None:
    names = {"python": "python", "bash": "bash", "shell": "sh", "perl": "perl", "js": "node", "go": "go"}
    shown = {names[language]: text for language, text in blocks() if language in names}
    assert shown == {name: (TEMPLATES / f"{name}.in").read_text() for name in names.values()}

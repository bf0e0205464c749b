"""docs/python.md, typed as it stands: its programs are run as they are printed, with a node beside them, and must show
what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from acceptance.conftest import PROGRAM, Terminal
from acceptance.test_plugins_guide import commands, pattern

PAGE = Path(__file__).parents[2] / "docs/python.md"
STORE = "sqlite:///tmp/example.db"  # of the page; here it lies in a directory of the test


def test_every_program_of_the_page_does_what_it_shows(terminal: Terminal, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    text = PAGE.read_text()
    assert STORE in text
    text = text.replace(STORE, f"sqlite://{place}/example.db")
    environment = {**terminal.environment, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    programs = 0
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for language, block in re.findall(r"^```(sh|python|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if language == "python":
                name = block.partition("\n")[0].removeprefix("# ")
                (place / name).write_text(block)
                continue
            if language == "sh":
                subprocess.run(["bash", "-ec", block], cwd=place, env=environment, check=True, timeout=60)
                continue
            for command, expected in commands(block):
                if not expected:  # it goes on beside the others
                    nodes.append(node_of(command, place, environment))
                    continue
                done = subprocess.run(
                    command.split(), cwd=place, env=environment, check=False, timeout=400,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )  # fmt: skip
                # Of lines that were written over each other, a terminal shows the last one.
                shown = re.sub(r"[^\n]*\r", "", done.stdout.decode())
                assert re.fullmatch(pattern(expected), shown), (command, shown)
                programs += 1
    finally:
        for node in nodes:
            node.terminate()
            node.wait(30)
    assert (programs, len(nodes)) == (2, 1)


def node_of(command: str, place: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    program, *arguments = command.split()
    assert program == PROGRAM.name
    return subprocess.Popen([str(PROGRAM), *arguments], cwd=place, env=environment, stderr=subprocess.DEVNULL)

"""The first steps of the README, typed as they stand."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from acceptance.conftest import PROGRAM, Terminal

PAGE = Path(__file__).parents[2] / "README.md"


def test_the_first_steps_lead_to_a_result(terminal: Terminal) -> None:
    steps = PAGE.read_text().split("## From an empty directory to a result")[1].split("## What a program is told")[0]
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", steps, re.MULTILINE | re.DOTALL))
    script = script.replace("seq 1000", "seq 20")
    environment = {**terminal.environment, "PATH": f"{PROGRAM.parent}:{terminal.environment['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-c", f"umask 022\n{script}"], cwd=terminal.directory, env=environment, text=True, check=False,
        timeout=100, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "my task is" in done.stdout and "well done" in done.stdout, done.stdout
    assert (terminal.directory / "disbatch-try/plugins/hello/plugin.json").exists()

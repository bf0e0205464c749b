"""Everything on the README that leads a reader on is typed as it stands: the first steps and, in the same shell, the
tour of a hundred thousand tasks (of fewer here)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path

from acceptance.conftest import PROGRAM, Terminal
from acceptance.test_help import calls, parse

PAGE = Path(__file__).parents[2] / "README.md"


def test_the_steps_lead_to_results(terminal: Terminal) -> None:
    steps = PAGE.read_text().split("## From an empty directory to a result")[1].split("## What a program is told")[0]
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", steps, re.MULTILINE | re.DOTALL))
    for on_page, here in (("seq 1000 ", "seq 20 "), ("seq 100000 ", "seq 200 "), ("127.0.0.1:9180", "127.0.0.1:0")):
        assert script.count(on_page) == 1, on_page
        script = script.replace(on_page, here)
    environment = {**terminal.environment, "PATH": f"{PROGRAM.parent}:{terminal.environment['PATH']}"}
    shell = subprocess.Popen(
        ["bash", "-e", "-c", f"umask 022\n{script}"], cwd=terminal.directory, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = shell.communicate(timeout=150)
    finally:
        with contextlib.suppress(ProcessLookupError):  # the node in the background, where a step has failed
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, output
    for words in ("my task is", "well done", "200 tasks created in queue greetings", "is not due until"):
        assert words in output, (words, output)
    place = terminal.directory / "disbatch-try"
    assert (place / "plugins/hello/plugin.json").exists()
    log = [json.loads(line) for line in (place / "mig01.log").read_text().splitlines()]
    assert len(log) > 3 and {line["node"] for line in log} == {"mig01"}, log
    assert terminal.fine("node", "list", "--json").json == [], "the tour leaves no node behind"


def test_every_command_in_the_text_is_one() -> None:
    lines = re.findall(r"`(disbatch-host [^`]+)`", PAGE.read_text())
    assert len(lines) > 3
    for line in lines:
        for words in calls(line):
            if "--help" not in words:
                parse(words)

"""A command within this process and the same command as a process of its own: nothing tells them apart."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.conftest import Result, Terminal
from helpers import in_process

LARGE = '{"text": "' + "ä" * 100_000 + '"}\n'
COMMANDS: list[tuple[list[str], str]] = [
    (["--version"], ""),
    (["--help"], ""),
    (["task", "push", "--help"], ""),
    (["queue", "list"], ""),
    (["queue", "list", "--json"], ""),
    (["queue", "show", "qq"], ""),
    (["queue", "create", "q", "--class", "A"], ""),
    (["task", "push", "q", "-", "--no-check"], "{}\nnonsense\n"),
    (["task", "push", "q", "-", "--json", "--dry-run"], LARGE),
    (["task", "import", "q", "-", "--dry-run"], '{"n": 1}\r\n[]\n'),
    (["task", "import", "q", "-", "--dry-run"], LARGE),
    (["task", "wait", "x", "--timeout", "soon"], LARGE),  # reads nothing of it
    (["task", "show", "\udcff"], ""),
    (["status", "--store", "nonsense://"], ""),
    (["plugins"], ""),
    (["check", "--run"], ""),
    (["exec", "Says"], ""),
    (["exec", "Says", "-", "--events"], "{}"),
    (["completion", "bash"], ""),
]


@pytest.fixture
def both(terminal: Terminal, plugin: Callable[..., Path]) -> Callable[..., tuple[Result, Result]]:
    plugin("Says", "echo out; echo err >&2; echo '{\"type\":\"progress\",\"value\":0.5}' >&3; exit 3",
           examples=[{"name": "one"}])  # fmt: skip
    terminal.fine("queue", "create", "q", "--class", "Says")
    terminal.environment["DISBATCH_SOMETHING"] = "ä"

    def both(*arguments: str, stdin: str = "", **environment: str) -> tuple[Result, Result]:
        given = {**terminal.environment, **environment}
        here, apart = (
            Terminal(terminal.directory, given, is_process=is_process)(*arguments, stdin=stdin)
            for is_process in (False, True)
        )
        return _without_chance(here), _without_chance(apart)

    return both


def _without_chance(result: Result) -> Result:
    """New ids, and how long something has taken, differ from call to call."""
    out, err = (
        re.sub(r"\b\d(\.\d\d)? s\b", "S", re.sub(r"\b[0-9a-f]{24}\b", "ID", text)) for text in (result.out, result.err)
    )
    return Result(result.code, out, err)


@pytest.mark.parametrize(
    ("arguments", "stdin"), COMMANDS, ids=lambda one: " ".join(one) if isinstance(one, list) else ""
)
def test_it_says_the_same(both: Callable[..., tuple[Result, Result]], arguments: list[str], stdin: str) -> None:
    here, apart = both(*arguments, stdin=stdin)
    assert here.out.splitlines() == apart.out.splitlines()
    assert here == apart


def test_variables_and_the_time_zone_are_its_own(
    terminal: Terminal, both: Callable[..., tuple[Result, Result]]
) -> None:
    shown = set()
    task_id = terminal.fine("task", "push", "q").out.strip()
    for zone in ("Asia/Kolkata", "America/New_York"):
        here, apart = both("task", "show", task_id, TZ=zone, NO_COLOR="1", COLUMNS="40")
        assert here == apart and here.code == 0
        shown.add(here.out)
    assert len(shown) == 2
    here, apart = both(_DISBATCH_HOST_COMPLETE="zsh_complete", COMP_WORDS="disbatch-host queue sh", COMP_CWORD="2")
    assert here == apart and "show" in here.out


def test_a_traceback_ends_in_the_same_line(both: Callable[..., tuple[Result, Result]]) -> None:
    here, apart = both("--debug", "queue", "show", "nowhere")
    assert here.code == apart.code == 4
    assert "Traceback" in here.err and here.err.splitlines()[-1] == apart.err.splitlines()[-1]


def test_nothing_of_a_command_is_left_in_this_process(terminal: Terminal) -> None:
    def state() -> tuple[object, ...]:
        loggers = [logging.getLogger(name) for name in (None, "disbatch_host", "pymongo")]
        return (
            dict(os.environ), Path.cwd(), sys.stdin, sys.stdout, sys.stderr, sorted(Path("/proc/self/fd").iterdir()),
            [(one.level, one.handlers, one.propagate) for one in loggers],
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
            [Path(f"/proc/self/fd/{number}").readlink() for number in range(3)],
        )  # fmt: skip

    before = state()
    for arguments in (["status"], ["--debug", "status"], ["nonsense"], ["exec", "nowhere"]):
        in_process.run(arguments, directory=terminal.directory, environment={"HOME": str(terminal.directory)})
        assert state() == before, arguments

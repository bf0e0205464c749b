"""`exec`, `check --run` and `--torture`: what they say of a plugin that goes wrong, and what they leave behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from acceptance.conftest import PROGRAM, Terminal
from helpers import supervisors
from helpers.nodes import write_plugin
from helpers.processes import assert_group_is_gone, wait_until

SLEEPER = """echo $$ > "$DISBATCH_PLUGIN_DIR/pid.new"
mv "$DISBATCH_PLUGIN_DIR/pid.new" "$DISBATCH_PLUGIN_DIR/pid"
sleep 983 &
sleep 983"""
WORKER = """#!/usr/bin/env python3
import json, os, sys
sys.stdin.readline()
os.write(3, b'{"type":"ready","protocol":1}\\n')
for line in sys.stdin:
    task = json.loads(line)["task"]
    done = {"type": "done", "exit": 0, "task": task["_id"], **task["parameters"].get("done", {})}
    os.write(3, (json.dumps(done) + "\\n").encode() * task["parameters"].get("times", 1))
"""


def interrupted(terminal: Terminal, home: Path, *arguments: str, number: signal.Signals) -> tuple[int, str]:
    """Exit code and stderr of a command that gets a signal as soon as the plugin runs; of that nothing is left."""
    with subprocess.Popen(
        [str(PROGRAM), *arguments], cwd=terminal.directory, env=terminal.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as command:  # fmt: skip
        wait_until((home / "pid").exists, 30)
        command.send_signal(number)
        _, errors = command.communicate(timeout=30)
    assert_group_is_gone(int((home / "pid").read_text()))
    return command.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("mode", ["oneshot", "worker"])
def test_check_leaves_nothing_behind_when_it_is_interrupted(
    terminal: Terminal, plugin: Callable[..., Path], mode: str, number: signal.Signals
) -> None:
    """Incident: after Ctrl-C the plugin lived on; with a worker that was not ready there was a traceback as well."""
    home = plugin("Sleeper", SLEEPER, mode=mode, examples=[{"name": "sleeps"}])
    code, errors = interrupted(terminal, home, "check", "Sleeper", "--run", number=number)
    assert (code, errors) == (128 + number, "")


@supervisors.usable()
@pytest.mark.parametrize("command", [("exec", "Sleeper"), ("check", "Sleeper", "--run")], ids=["exec", "check"])
def test_nothing_is_left_when_it_is_killed(
    terminal: Terminal, plugin: Callable[..., Path], command: tuple[str, ...]
) -> None:
    """A terminal that is closed, or a CI job that is over its time: nobody would know of the program that runs on."""
    home = plugin("Sleeper", f"setsid sleep 984 &\n{SLEEPER}", examples=[{"name": "sleeps"}])
    with subprocess.Popen(
        [str(PROGRAM), *command], cwd=terminal.directory, env=terminal.environment, stdout=subprocess.DEVNULL
    ) as killed:
        wait_until((home / "pid").exists, 30)
        killed.kill()
    assert_group_is_gone(int((home / "pid").read_text()))
    wait_until(lambda: not leftovers_of(home), 20)


def leftovers_of(home: Path) -> list[str]:
    """The processes that were started in this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == home:
                    found.append((entry / "cmdline").read_bytes().decode())
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_exec_leaves_nothing_behind_when_it_is_interrupted(
    terminal: Terminal, plugin: Callable[..., Path], number: signal.Signals
) -> None:
    home = plugin("Sleeper", SLEEPER)
    code, errors = interrupted(terminal, home, "exec", "Sleeper", number=number)
    assert code == 1 and "cancelled" in errors and "Traceback" not in errors


def test_exec_that_is_interrupted_before_the_worker_is_ready_says_so(
    terminal: Terminal, plugin: Callable[..., Path]
) -> None:
    home = plugin("Sleeper", SLEEPER, mode="worker")
    code, errors = interrupted(terminal, home, "exec", "Sleeper", number=signal.SIGINT)
    assert (code, errors) == (1, "disbatch-host: stopped before it was started\n")


def trial_messages(terminal: Terminal, *arguments: str) -> list[tuple[str, str, str]]:
    [report] = terminal("check", "--json", *arguments).json
    return [(one["trial"], one["verdict"], one["message"]) for one in report["trials"]]


def test_a_program_that_becomes_deaf_after_a_slow_start_is_found_out(
    terminal: Terminal, plugin: Callable[..., Path]
) -> None:
    """Incident: it was stopped only while it started, when it did not ignore the signal yet."""
    plugin("Deaf", "sleep 0.7; trap '' TERM; read -r task", kill_grace=0.5)
    [found] = [one for one in trial_messages(terminal, "Deaf", "--torture") if one[0] == "stops when asked to"]
    assert found[1] == "failed" and "while it waited for its task, found that it had to be killed" in found[2]


def test_a_program_that_becomes_deaf_at_its_work_is_found_out(terminal: Terminal, plugin: Callable[..., Path]) -> None:
    program = "read -r task || exit; sleep 0.4; trap '' TERM; echo begun; sleep 0.6; sleep 0.6"
    plugin("Deaf", program, kill_grace=0.3)
    [found] = [one for one in trial_messages(terminal, "Deaf", "--torture") if one[0] == "stops when asked to"]
    assert found[1] == "failed" and "while it worked" in found[2]


def test_torture_says_what_a_program_leaves_behind(terminal: Terminal, plugin: Callable[..., Path]) -> None:
    """A daemon as they are made: a session of its own, an empty environment, and a parent that has ended."""
    left = "(setsid env -i /bin/sh -c '/bin/sleep 7 & exit 0' >/dev/null 2>&1 3>&- &); sleep 0.2"
    for name, more in {"Leaves": {}, "Wants": {"protocol": 2, "leave_running": True}}.items():
        plugin(name, left, **more)
        messages = trial_messages(terminal, name, "--torture")
        ((_, verdict, message),) = [one for one in messages if one[0] == "ends by itself"]
        if more:
            assert (verdict, message) == ("passed", "")
        else:
            assert verdict == "hint" and "(sleep, of user" in message and 'write "leave_running": true' in message


def test_check_says_why_a_worker_was_replaced(terminal: Terminal, plugin: Callable[..., Path]) -> None:
    """Incidents: `was ended by signal KILL` of a wrong done, and nothing of one that was said twice."""
    examples = [
        {"name": "wrong", "parameters": {"done": {"exit": 999}}},
        {"name": "another", "parameters": {"done": {"task": "b"}}},
        {"name": "twice", "parameters": {"times": 2}},
        {"name": "fine"},
    ]
    plugin("Worker", WORKER, file="run.py", mode="worker", examples=examples)
    wrong, another, twice, fine = trial_messages(terminal, "Worker", "--run")
    assert wrong[1] == "failed" and 'expected "exit" of done to be a whole number from 0 to 255' in wrong[2]
    assert another[1] == "failed" and "expected done for task" in another[2]
    assert twice[1] == "failed" and "expected done only while it has a task" in twice[2]
    assert fine[1:] == ("passed", "")


def test_exec_says_what_had_no_effect_and_until_when_it_sleeps(terminal: Terminal, plugin: Callable[..., Path]) -> None:
    say = """echo nonsense >&3; echo '{"type":"snooze","seconds":40,"message":"quota"}' >&3"""
    plugin("Later", say)
    done = terminal("exec", "Later")
    first, last = done.err.splitlines()
    assert re.match("disbatch-host: 1 line on descriptor 3 was ignored; the first: .*nonsense", first)
    assert last == "disbatch-host: blocked: to run again in 40 s: quota"


def test_exec_reads_parameters_from_stdin(terminal: Terminal, plugin: Callable[..., Path]) -> None:
    plugin("Cat", "cat")
    assert '"parameters":{"a":[1],"b":2}' in terminal.fine("exec", "Cat", "-", "-p", "b=2", stdin='{"a": [1]}\n').out
    assert "expected a JSON object of parameters on stdin" in terminal.refused(2, "exec", "Cat", "-")
    assert "KEY:=JSON" in terminal.fine("exec", "--help").out


def test_exec_whose_reader_has_gone_says_nothing(terminal: Terminal, plugin: Callable[..., Path]) -> None:
    plugin("Mixed", 'for i in 1 2 3 4 5; do echo out; echo err >&2; echo \'{"type":"progress"}\' >&3; done')
    command = f"{PROGRAM} exec Mixed --events 2>errors | head -c 0"
    subprocess.run(["bash", "-c", command], cwd=terminal.directory, env=terminal.environment, check=False, timeout=30)
    assert "Traceback" not in (terminal.directory / "errors").read_text()


def test_what_check_writes_is_text_whatever_names_are(terminal: Terminal) -> None:
    """Incident: JUnit that no reader takes, and a raw ESC for the terminal, from the name of a directory."""
    plugins = terminal.directory / "plugins"
    write_plugin(plugins, "Fine", "echo '\\033[31m'", examples=[{"name": "one"}, {"name": "one", "exit": 1}])
    (plugins / "Fine").rename(plugins / "a\x1b[31mb")
    home = write_plugin(plugins, "Broken", "true", timeout=-1)
    home.rename(Path(os.fsdecode(os.fsencode(plugins) + b"/caf\xe9")))
    done = terminal("check", "--run", "--junit", "check.xml")
    assert done.code == 1 and "\x1b" not in done.out + done.err
    root = ElementTree.parse(terminal.directory / "check.xml").getroot()
    names = [case.get("name") for case in root.iter("testcase")]
    assert "example one" in names and "example one (2)" in names


COLLISIONS = [("disbatch", language) for language in ("sh", "bash", "node", "go")] + [
    (name, "python") for name in ("disbatch_plugin", "json", "traceback")
]


@pytest.mark.parametrize(("name", "language"), COLLISIONS)
def test_a_new_plugin_works_whatever_it_is_called(
    terminal: Terminal, require: Callable[[str], None], name: str, language: str
) -> None:
    require({"python": "python3"}.get(language, language))
    made = terminal.fine("new", name, "--lang", language, "--plugins", "my plugins")
    typed = [line.strip() for line in made.out.splitlines() if line.strip().startswith("disbatch-host ")]
    assert len(typed) == 2
    for line in typed:
        assert run_typed(terminal, line).returncode == 0, line


def run_typed(terminal: Terminal, line: str) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = ["sh", "-c", line.replace("disbatch-host", str(PROGRAM), 1)]
    return subprocess.run(
        command, cwd=terminal.directory, env=terminal.environment, capture_output=True, text=True, check=False
    )


ASKS = '; it asks to be tried again, but a node would not do so; "retry": {"max": 3} in plugins/p/plugin.json allows it'


@pytest.mark.parametrize(
    ("program", "manifest", "said"),
    [
        ("exit 75", {}, ASKS),
        ("exit 4", {"exit_codes": {"4": {"outcome": "retry"}}}, ASKS),
        ("exit 75", {"exit_codes": {"75": {"outcome": "permanent"}}}, ""),
        ("exit 4", {}, ""),
        ("exit 75", {"retry": {"max": 3, "delay": "1m"}}, "up to 3 times more, after about 1m, 2m, 4m"),
        ("exit 75", {"retry": {"max": 9, "delay": "5s", "max_delay": "12s"}},
         "up to 9 times more, after about 5 s, 10 s, 12 s and so on"),
        ("exit 4", {"retry": {"max": 1}}, "once more, after about 10 s"),
        ("exec sleep 60", {"timeout": "200ms", "retry": {"max": 1}}, "once more, after about 10 s"),
    ],
)  # fmt: skip
def test_exec_says_whether_a_node_would_try_it_again(
    terminal: Terminal, plugin: Callable[..., Path], program: str, manifest: Any, said: str
) -> None:
    """Incident: a plugin that exits with 75 was said to be blocked, or to have failed, and nothing more."""
    plugin("p", f"echo words >&2; {program}", **manifest)
    failed = f"failed: exit code {program[-2:].strip()}"
    ended = "terminated: it ran longer than its timeout of 0.2 s" if "timeout" in manifest else failed
    again = f"; a node would try it again {said}" if "more" in said else said
    assert terminal("exec", "p").err == f"words\ndisbatch-host: {ended}{again}\n"

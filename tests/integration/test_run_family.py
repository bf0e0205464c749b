"""The processes of a run besides its first one: none escapes a stop, and what the first one leaves is ended."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from pathlib import Path

import pytest

from disbatch_host.process.interface import Deadlines, StopReason, Stream
from helpers.processes import wait_until
from integration.test_child import ENVIRONMENT, Seen, run

pytestmark = pytest.mark.usefixtures("each_supervisor")
# Leaves the group and becomes a `sleep`, while its first process waits.
LEAVES_THE_GROUP = """import os, sys
if not os.fork():
    os.setpgid(0, 0)
    os.execvp("sleep", ["sleep", sys.argv[1]])
os.wait()
"""
# Says "ready", then what it is told by SIGTERM, and ends a while after that.
SAYS_SIGNALS = """import os, signal, sys, time
ends_at = []
def note(*_):
    os.write(1, b"term\\n")
    ends_at.append(time.monotonic() + 0.7)
signal.signal(signal.SIGTERM, note)
os.write(1, b"ready\\n")
while not ends_at or time.monotonic() < ends_at[0]:
    time.sleep(0.02)
"""
# Each starts `sleep` with an argument of its own, in a place where a signal to the process group does not reach it.
ESCAPES = {
    "timeout": "timeout {n} sleep {n}",
    "job control": "set -m; sleep {n} & echo; wait",
    "a session of its own": "setsid sleep {n} & echo; wait",
    "a session that waits": "setsid -w sleep {n}",
    "a group of its own": "{python} -c '{leaves}' {n}",
    "a double fork": "(setsid sh -c 'sleep {n} & sleep {n}' &) ; sleep {n}",
    "two levels": "sh -c \"setsid sh -c 'timeout {n} sleep {n}'\" & wait",
}


@pytest.fixture
def number() -> str:
    """An argument by which the processes of one test are found, in seconds for `sleep`."""
    return f"6{uuid.uuid4().int % 10**9:09}"


def left(number: str) -> list[int]:
    """Those that have this argument and are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if number.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def sh(script: str, number: str, **more: object) -> Seen:
    texts = {"{n}": number, "{python}": sys.executable, "{leaves}": LEAVES_THE_GROUP, "{signals}": SAYS_SIGNALS}
    for name, text in texts.items():
        script = script.replace(name, text)
    return run("/bin/sh", "-c", script, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_time_limit_ends_what_has_left_the_group(name: str, number: str) -> None:
    """`timeout`, job control and `setsid` put programs where they outlived every time limit and cancellation."""
    began = time.monotonic()
    seen = sh(ESCAPES[name], number, deadlines=Deadlines(timeout_seconds=0.4, kill_grace_seconds=20))
    assert seen.end.stopped is StopReason.TIMEOUT and not left(number)
    assert time.monotonic() - began < 15, "it was killed after its grace, and not stopped"


@pytest.mark.parametrize("name", ESCAPES)
def test_a_kill_ends_what_has_left_the_group(name: str, number: str) -> None:
    script = f"{ESCAPES[name]} & echo begun >&3; wait"

    def kill_all(child: object, stream: Stream, data: bytes) -> None:
        if stream is Stream.EVENTS:
            wait_until(lambda: left(number), 10, "it did not begin")
            child.kill(StopReason.CANCELLED)  # type: ignore[attr-defined]

    assert sh(script, number, when=kill_all).end.signal == signal.SIGKILL
    assert not left(number)


def stop_when_ready(child: object, stream: Stream, data: bytes) -> None:
    if b"ready" in data:
        child.stop(StopReason.CANCELLED)  # type: ignore[attr-defined]


def test_the_grace_lasts_as_long_as_anything_of_the_run_lives(number: str) -> None:
    """The shell ends at the stop signal; what it had started, and was tidying up, was killed without its grace."""
    script, grace = "{python} -c '{signals}' {n} & wait", Deadlines(kill_grace_seconds=20)
    seen = sh(script, number, when=stop_when_ready, deadlines=grace)
    assert seen.output[Stream.STDOUT] == b"ready\nterm\n"
    assert seen.end.signal == signal.SIGTERM and seen.end.killed_after_seconds is None
    assert not left(number)


def test_what_ignores_the_stop_signal_is_killed_after_the_grace_although_the_first_process_is_gone(number: str) -> None:
    script = "(trap '' TERM; sleep {n}; sleep {n}) & sleep {n}"
    began = time.monotonic()
    seen = sh(script, number, deadlines=Deadlines(timeout_seconds=0.3, kill_grace_seconds=0.5))
    assert seen.end.signal == signal.SIGTERM and seen.end.stopped is StopReason.TIMEOUT
    assert not left(number) and 0.7 < time.monotonic() - began < 20


def test_a_stopped_process_ends_too(number: str) -> None:
    script = "sleep {n} & kill -STOP $!; wait"
    sh(script, number, deadlines=Deadlines(timeout_seconds=0.3, kill_grace_seconds=20))
    assert not left(number)


@pytest.mark.parametrize("wrapper", ["", "setsid -w", "timeout 600", "env"])
def test_each_process_gets_the_stop_signal_once(number: str, wrapper: str) -> None:
    """Twice means "now" to many programs."""
    script, grace = "exec {wrapper} {python} -c '{signals}' {n}", Deadlines(kill_grace_seconds=20)
    seen = sh(script.replace("{wrapper}", wrapper), number, when=stop_when_ready, deadlines=grace)
    said = seen.output[Stream.STDOUT]
    # `timeout` passes the signal on, to its child and to its group, as it would from a person who ends it; those that
    # come together are one.
    most = 3 if wrapper.startswith("timeout") else 1
    assert said in [b"ready\n" + number * b"term\n" for number in range(1, most + 1)]


@pytest.mark.parametrize("how", ["setsid sleep {n}", "setsid sh -c 'sleep {n} & exit'"])
def test_what_a_run_has_left_is_ended_and_named_unless_its_plugin_wants_it_to_go_on(number: str, how: str) -> None:
    script = f"{how} >/dev/null 2>&1 3>&- & sleep 0.3"
    seen = sh(script, number)
    assert [one.program for one in seen.end.ended_with_it] == ["sleep"] and seen.end.left_running == 0
    assert seen.end.exit_code == 0 and not left(number)
    seen = sh(script, number, leave_running=True)
    assert (seen.end.ended_with_it, seen.end.left_running, seen.end.exit_code) == ((), 1, 0)
    (pid,) = left(number)
    os.kill(pid, signal.SIGKILL)


def test_what_is_still_in_the_session_is_killed_alone_although_it_ignores_the_signal(number: str) -> None:
    daemon = f"5{number}"
    script = (
        "(trap '' TERM; while :; do sleep 0.05; done) >/dev/null 2>&1 3>&- & "
        f"setsid sleep {daemon} >/dev/null 2>&1 3>&- & sleep 0.3"
    )
    seen = sh(script, number, leave_running=True, deadlines=Deadlines(kill_grace_seconds=0.3))
    assert seen.end.left_running == 1 and seen.end.exit_code == 0 and not seen.end.left_over
    (pid,) = left(daemon)
    os.kill(pid, signal.SIGKILL)


def test_what_may_go_on_is_ended_by_a_stop(number: str) -> None:
    script = "setsid sleep {n} >/dev/null 2>&1 3>&- & sleep 60"
    seen = sh(script, number, leave_running=True, deadlines=Deadlines(timeout_seconds=0.5, kill_grace_seconds=20))
    assert seen.end.stopped is StopReason.TIMEOUT and seen.end.left_running == 0 and not left(number)


def test_the_environment_marks_the_run() -> None:
    seen = run("/usr/bin/env")
    marks = [line for line in seen.output[Stream.STDOUT].splitlines() if line.startswith(b"DISBATCH_RUN=")]
    assert len(marks) == 1 and set(ENVIRONMENT) == {"PATH"}

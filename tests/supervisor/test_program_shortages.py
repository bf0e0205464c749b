"""disbatch-supervisor where the machine does not do its part: starts that hang, few descriptors, small pipes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from disbatch_host.process.flags import How, Input
from disbatch_host.process.frames import End, KillRun, Log, NotStarted, Started, Step, Stop, StopRun
from helpers import supervisors
from helpers.processes import wait_until
from helpers.supervisors import Home, Talk, paired, plugin, shell, start

pytestmark = supervisors.usable()
NOBODY = 65534
Over = End | NotStarted
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
# While somebody has a lease on a file, its next user waits in the kernel, as on a file server that does not answer.
HOLDS = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
descriptor = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
except OSError as error:
    print(error, flush=True)
else:
    print("held", flush=True)
    sys.stdin.read()
"""
# Takes the user's share of pipe memory, so that new pipes are small.
TAKES_PIPES = """
import fcntl, os, sys
os.setuid(int(sys.argv[1]))
kept = []
try:
    while True:
        kept.append(os.pipe())
        fcntl.fcntl(kept[-1][1], fcntl.F_SETPIPE_SZ, 2**20)
except PermissionError:
    pass
while fcntl.fcntl(kept[-1][1], fcntl.F_GETPIPE_SZ) >= 2**16:
    kept.append(os.pipe())
print("taken", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(script: str, *arguments: str) -> Iterator[str]:
    """A process that takes something and holds it. Its first line."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


@pytest.fixture
def talk() -> Iterator[Talk]:
    with paired() as one:
        yield one


def starting(talk: Talk) -> int:
    """How many of its children are the starters', not yet programs or just become ones."""
    threads = Path(f"/proc/{talk.link.pid}/task").iterdir()
    return sum(len((one / "children").read_text().split()) for one in threads)


def test_starts_that_hang_are_named_and_keep_no_other_plugin_from_starting(talk: Talk, tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    talk.say(plugin(1, str(program)), shell(2, "echo ran"))
    with holder(HOLDS, str(program)) as said:
        if said != "held":
            pytest.skip(f"this file system gives no leases: {said}")
        talk.say(*[start(run, 1) for run in range(1, 41)], start(41, 2))
        assert talk.end(41, 30).stdout == b"ran\n"
        for _ in range(4):
            log = talk.hear(Log)
            assert b"starting " + bytes(program) + b" takes longer than 5 s" in log.words
        # Half of all threads are for others, however many starts of one plugin hang.
        wait_until(lambda: starting(talk) == 32, 20)
        talk.say(start(42, 2))
        assert talk.end(42).stdout == b"ran\n"
        assert starting(talk) == 32
        # One that waits for a thread is withdrawn, and one that hangs is killed.
        talk.say(StopRun(40, Stop.CANCELLED), KillRun(1, Stop.CANCELLED))
        assert talk.hear(NotStarted)[:] == (40, errno.ECANCELED, Step.STOPPED, Stop.CANCELLED)
        end = talk.end(1)
        assert (end.status, end.stopped) == (signal.SIGKILL, Stop.CANCELLED)
    # They go on once the file is free; for a moment its holder, which may write it, still has it open.
    for run in range(2, 40):
        over = talk.hear(Over, 30, where=lambda one, run=run: one.run == run)  # type: ignore[type-var, arg-type, misc]
        assert over.status == 0 if isinstance(over, End) else over.errno == errno.ETXTBSY


def test_more_runs_than_there_are_descriptors_for_are_refused_and_a_new_node_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adoption must not fail just when it is needed."""
    wrapper = tmp_path / "with-95"
    wrapper.write_text(f'#!/bin/sh\nulimit -n 95\nexec {supervisors.program()} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("DISBATCH_TESTED_SUPERVISOR", str(wrapper))
    home = Home(tmp_path / "home")
    try:
        node = home.visit()
        assert node.hello(key=home.key, keep=600).capacity == 3
        node.say(shell(1, "exec sleep 60"), *[start(run, 1, flags=Input.TELL) for run in range(1, 5)])
        for _ in range(3):
            node.hear(Started)
        refused = node.hear(NotStarted)
        assert refused[:] == (4, errno.EMFILE, Step.PIPES, 0)
        assert [run.run for run in home.node(session=2).runs()] == [1, 2, 3]
    finally:
        home.close()


@needs_root
def test_an_input_that_a_small_pipe_does_not_take_comes_whole_and_is_counted() -> None:
    """A user's pipes are small once it has many."""
    with tempfile.TemporaryDirectory() as directory, holder(TAKES_PIPES, str(NOBODY)) as said:
        assert said == "taken"
        Path(directory).chmod(0o755)
        program = shutil.copy(supervisors.program(), directory)
        wrapper = Path(directory) / "as-nobody"
        wrapper.write_text(f'#!/bin/sh\nexec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {program} "$@"\n')
        wrapper.chmod(0o755)
        text = b"%07d\n" * 5000 % tuple(range(5000))
        with paired(wrapper) as talk:
            talk.say(shell(1, f"while ! [ -e {directory}/go ]; do sleep 0.1; done; exec cat"))
            talk.say(start(1, 1, text, flags=Input.TELL))
            assert pipe_size(talk.hear(Started).pid) < len(text)
            (Path(directory) / "go").touch()
            assert talk.end(1).stdout == text
            talk.say(shell(2, "exit 0"), start(2, 2, text))
            end = talk.end(2)
            assert (end.stdin_left, bool(end.flags & How.STDIN_REFUSED)) == (len(text), True)


def pipe_size(pid: int) -> int:
    """Of the stdin of a process."""
    descriptor = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
    finally:
        os.close(descriptor)

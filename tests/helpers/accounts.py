"""What plugins say of themselves beside the store: each start and each end is a line in a file, so that a test can hold
what really ran against what the documents say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disbatch_host.process import leftovers

# Writes a line for its start and one for its end, and in between says again and again that it lives, until the gate
# of its node and life is there. One source for both modes; a SIGTERM alone does not end it where the parameters say so.
_HOLDER = """#!/usr/bin/env python3
import json, os, signal, sys, time

directory = @DIRECTORY@
node = os.environ["DISBATCH_NODE"]
trace = os.open(f"{directory}/trace", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def started(pid):
    try:
        fields = open(f"/proc/{pid}/stat", "rb").read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def note(what, task, attempt):
    # One write at the end of the file: lines of several processes do not mix.
    me = f"{node} {os.getpid()} {started(os.getpid())} {time.monotonic()} {left_over()}"
    os.write(trace, f"{what} {task} {attempt} {me}\\n".encode())


def say(text):
    try:
        os.write(1, f"{text}\\n".encode())
    except BrokenPipeError:
        pass  # its node is dead: it goes on all the same


def left_over():
    # How many of the processes of an earlier life are still there.
    try:
        lines = open(f"{directory}/trace.earlier").read().splitlines()
    except FileNotFoundError:
        return 0
    return sum(started(int(line.split()[4])) == int(line.split()[5]) for line in lines if line.startswith("start"))


def work(task, attempt):
    life = 2 if os.path.exists(f"{directory}/trace.earlier") else 1
    gate = f"{directory}/go.{node}.{life}"
    if task["parameters"].get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note("start", task["_id"], attempt)
    say(f"begun on {node}")
    alive = os.open(f"{directory}/alive.{task['_id']}.{attempt}", os.O_WRONLY | os.O_CREAT)
    while not os.path.exists(gate):
        os.pwrite(alive, str(time.monotonic()).encode(), 0)
        time.sleep(0.02)
    say(f"ended on {node}")
    note("end", task["_id"], attempt)


if os.environ["DISBATCH_MODE"] == "worker":
    events = os.fdopen(3, "wb", buffering=0)
    sys.stdin.readline()
    events.write(b'{"type":"ready","protocol":1}\\n')
    for line in sys.stdin:
        heard = json.loads(line)
        work(heard["task"], heard["attempt"])
        events.write(b'{"type":"done","exit":0}\\n')
else:
    work(json.loads(sys.stdin.readline()), int(os.environ["DISBATCH_ATTEMPT"]))
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One start or end, as the process has written it down."""

    what: str
    task: str
    attempt: int
    node: str
    pid: int
    pid_started: int
    at: float  # by the monotonic clock, which all processes of the machine share
    left_over: int  # processes of an earlier life that were alive


class Account:
    """The file that the plugins of a test append to, and the gates that let them go."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    @property
    def program(self) -> str:
        """A plugin that holds until it is let go (`file="hold.py"`)."""
        return _HOLDER.replace("@DIRECTORY@", repr(str(self.directory)))

    def let_go(self, node_id: str, *, life: int = 1) -> None:
        """Processes that this node has started, or will start, in this life go on to their end."""
        (self.directory / f"go.{node_id}.{life}").touch()

    def lines(self, what: str, task_id: Any = None) -> list[Line]:
        try:
            text = (self.directory / "trace").read_text()
        except FileNotFoundError:
            return []
        found = []
        for line in text.splitlines():
            word, task, attempt, node, pid, pid_started, at, left_over = line.split()
            found.append(
                Line(word, task, int(attempt), node, int(pid), int(pid_started), float(at), int(left_over)),
            )
        return [one for one in found if one.what == what and (task_id is None or one.task == str(task_id))]

    def last_alive(self, task_id: Any, attempt: int) -> float:
        """When the process of this attempt last said that it lives."""
        return float((self.directory / f"alive.{task_id}.{attempt}").read_text())

    def begin_another_life(self) -> None:
        """From now on the processes so far are those of an earlier life."""
        (self.directory / "trace").rename(self.directory / "trace.earlier")

    def kill_what_is_left(self) -> None:
        """After a test that has failed: nothing of it goes on."""
        for trace in self.directory.glob("trace*"):
            for line in trace.read_text().splitlines():
                leftovers.kill(*(int(field) for field in line.split()[4:6]))


@contextlib.contextmanager
def account(directory: Path) -> Iterator[Account]:
    one = Account(directory)
    try:
        yield one
    finally:
        one.kill_what_is_left()

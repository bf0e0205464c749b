"""What plugins say of themselves beside the store: each start and each end is a line in a file, so that a test can hold
what really ran against what the documents say."""

from __future__ import annotations

import contextlib
import shlex
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
supervisor = os.environ["DISBATCH_RUN"].partition("-")[0]
trace = os.open(f"{directory}/trace", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def started(pid):
    try:
        fields = open(f"/proc/{pid}/stat", "rb").read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def note(what, task, attempt):
    # One write at the end of the file: lines of several processes do not mix.
    me = f"{node} {os.getpid()} {started(os.getpid())} {time.monotonic()} {left_over(task, attempt)} {supervisor}"
    os.write(trace, f"{what} {task} {attempt} {me}\\n".encode())


def say(text):
    try:
        os.write(1, f"{text}\\n".encode())
    except BrokenPipeError:
        pass  # its node is dead: it goes on all the same


def starts_in(file):
    try:
        lines = open(f"{directory}/{file}").read().splitlines()
    except FileNotFoundError:
        return []
    return [line.split() for line in lines if line.startswith("start")]


def left_over(task, attempt):
    # How many of the processes of an earlier life, or of earlier attempts of this task, are still there.
    before = starts_in("trace.earlier")
    if attempt > 1:
        before += [one for one in starts_in("trace") if one[1] == task and int(one[2]) < attempt]
    before = [one for one in before if int(one[4]) != os.getpid()]
    return sum(started(int(one[4])) == int(one[5]) for one in before)


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


# The same lines, of a shell that goes on by itself; it takes a hundredth of a second to start, not a tenth.
_PASSER = r"""#!/bin/sh
trace=@DIRECTORY@/trace

started() {
    # Of a process that there is, and that is not only a zombie.
    read -r line 2>/dev/null <"/proc/$1/stat" || return
    set -- ${line##*)}
    case $1 in Z | X) ;; *) echo "${20}" ;; esac
}

note() {
    read -r at rest </proc/uptime
    echo "$1 $DISBATCH_TASK_ID $DISBATCH_ATTEMPT $DISBATCH_NODE $$ $me $at $left_over ${DISBATCH_RUN%-*}" >>"$trace"
}

me=$(started $$)
left_over=0
if [ "$DISBATCH_ATTEMPT" -gt 1 ]; then
    while read -r what task attempt node pid pid_started rest; do
        [ "$what $task" = "start $DISBATCH_TASK_ID" ] && [ "$attempt" -lt "$DISBATCH_ATTEMPT" ] || continue
        [ "$(started "$pid")" = "$pid_started" ] && left_over=$((left_over + 1))
    done <"$trace"
fi
note start
sleep 0.$(($$ % 4))
note end
echo out
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
    left_over: int  # processes of an earlier life, and of earlier attempts, that were alive
    supervisor: str  # the id of the one that has started it


class Account:
    """The file that the plugins of a test append to, and the gates that let them go."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    @property
    def program(self) -> str:
        """A plugin that holds until it is let go (`file="hold.py"`)."""
        return _HOLDER.replace("@DIRECTORY@", repr(str(self.directory)))

    @property
    def passing_program(self) -> str:
        """A oneshot plugin that takes some tenths of a second."""
        return _PASSER.replace("@DIRECTORY@", shlex.quote(str(self.directory)))

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
            word, task, attempt, node, pid, pid_started, at, left_over, supervisor = line.split()
            numbers = int(pid), int(pid_started), float(at), int(left_over)
            found.append(Line(word, task, int(attempt), node, *numbers, supervisor))
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

"""disbatch-supervisor and a node that keeps what it is told: nothing is kept for another one, and nothing is lost."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from disbatch_host.process import connection
from disbatch_host.process.flags import Input
from disbatch_host.process.frames import End, Events, Plugin, Said, Started, Stop, StopRun, Task
from helpers import supervisors
from helpers.processes import stop, wait_until
from helpers.supervisors import MICROSECONDS, Talk, paired, plugin, shell, start

pytestmark = supervisors.usable()
LIVE = Input.LIVE | Input.TELL
MIB = 2**20
PRINTS = "import os, sys\nfor n in range(int(sys.argv[1])): os.write(1, b'%015d\\n' % n * 4096)"


@pytest.fixture
def talk() -> Iterator[Talk]:
    with paired() as one:
        yield one


def printing(number: int, blocks: int) -> Plugin:
    """A plugin that prints so many times 64 KiB, though PLUGIN says that nothing is kept."""
    return plugin(number, "/usr/bin/env", "python3", "-c", PRINTS, str(blocks), max_output=0)


def expected(blocks: int) -> bytes:
    return b"".join(b"%015d\n" % n * 4096 for n in range(blocks))


def text_of(talk: Talk, run: int, number: int = 1) -> bytes:
    """All of a stream of a run that has ended, whose parts must follow each other."""
    end = talk.end(run, 60)
    text = b""
    for one in talk.kept:
        if isinstance(one, Said) and (one.run, one.stream) == (run, number):
            assert one.offset == len(text)
            text += one.data
    assert end.stdout_at == len(text)
    return text + end.stdout


def test_everything_is_told_whatever_max_output_is(talk: Talk) -> None:
    talk.say(printing(1, 300), start(1, 1, flags=LIVE))
    assert text_of(talk, 1) == expected(300)


def test_the_program_waits_where_the_node_takes_no_more(talk: Talk) -> None:
    """As it would if the node read its pipe: no file is written, and nothing is lost."""
    talk.say(printing(1, 300), start(1, 1, flags=LIVE))
    started = talk.hear(Started)
    supervisor = parent_of(started.pid)
    written = wait_until_it_stands_still(started.pid)
    assert written < 8 * MIB
    files = [one.readlink() for one in Path(f"/proc/{supervisor}/fd").iterdir() if int(one.name) > 2]
    assert not [one for one in files if "(deleted)" in str(one)]
    assert text_of(talk, 1) == expected(300)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_until_it_stands_still(pid: int) -> int:
    """How many bytes it has written by then."""
    seen = [-1]

    def stands_still() -> bool:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        seen.append(int(next(line.split()[1] for line in lines if line.startswith("wchar"))))
        return len(seen) > 20 and len(set(seen[-20:])) == 1

    wait_until(stands_still, 30, "it writes on")
    return seen[-1]


def test_a_program_that_waits_for_its_node_is_not_silent(talk: Talk) -> None:
    idle_seconds = 1.5  # for an interpreter to start on a busy machine
    talk.say(printing(1, 300), start(1, 1, flags=LIVE, idle_timeout=int(idle_seconds * MICROSECONDS)))
    wait_until_it_stands_still(talk.hear(Started).pid)
    stands_since = time.monotonic()
    wait_until(lambda: time.monotonic() - stands_since > 1.5 * idle_seconds)
    assert text_of(talk, 1) == expected(300)


def test_what_was_written_before_an_event_is_told_before_it(talk: Talk) -> None:
    script = "i=0; while [ $i -lt 300 ]; do echo $i; echo $i >&2; echo event $i >&3; i=$((i + 1)); done; read x"
    talk.say(shell(1, script, max_output=0), start(1, 1, flags=LIVE | Input.OPEN))
    told = {1: 0, 2: 0}
    events = b""
    while not events.endswith(b"event 299\n"):
        one = talk.hear((Said, Events))  # type: ignore[arg-type]
        if isinstance(one, Said):
            told[one.stream] += len(one.data)
        else:
            assert told[1] >= one.stdout_at and told[2] >= one.stderr_at
            events += one.data
    talk.say(StopRun(1, Stop.CANCELLED))
    talk.end(1)


def test_what_lies_unread_when_its_node_ends_is_not_started(tmp_path: Path) -> None:
    """By the time that it is read, another node may have the task."""
    talk = Talk(connection.paired(supervisors.program()))
    talk.hello()
    talk.say(shell(1, f"echo began >>{tmp_path}/began"), start(1, 1, flags=LIVE))
    talk.end(1)
    stop(talk.link.pid)
    talk.say(start(2, 1, flags=LIVE))
    talk.link.hang_up()
    os.kill(talk.link.pid, signal.SIGCONT)
    talk.link.close()  # waits for it
    assert (tmp_path / "began").read_text() == "began\n"


def test_cpu_time_counts_from_the_task_that_was_given_last(talk: Talk) -> None:
    burn = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done"
    talk.say(shell(1, f"{burn}; echo burnt >&3; read x"), start(1, 1, flags=LIVE | Input.OPEN))
    burnt = talk.hear(Events)
    talk.say(Task(1, 1, 0, 0, 0, 0, 2, b"", b"x\n"))
    assert talk.hear(End).cpu < burnt.cpu / 2


def test_cpu_time_of_a_task_counts_all_threads_of_its_process(talk: Talk) -> None:
    burns = """
import os, sys, threading, time
def burn():
    begun = time.thread_time()
    while time.thread_time() - begun < 0.3: pass
thread = threading.Thread(target=burn)
thread.start()
thread.join()
os.write(3, b"burnt\\n")
sys.stdin.read()
"""
    talk.say(plugin(1, sys.executable, "-c", burns), start(1, 1, flags=LIVE | Input.OPEN))
    assert talk.hear(Events, 60).cpu >= 300_000
    talk.say(StopRun(1, Stop.CANCELLED))
    talk.end(1)

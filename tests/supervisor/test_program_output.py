"""What disbatch-supervisor keeps of output and input, and what it asks a disk for."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import small_disk_or_skip
from disbatch_host.process.flags import How, Input
from disbatch_host.process.frames import (
    Ack,
    Acknowledged,
    Closed,
    End,
    Events,
    KillRun,
    Log,
    NotStarted,
    Plugin,
    Said,
    Start,
    Started,
    Stdin,
    Step,
    Stop,
    StopRun,
    Task,
    Window,
)
from helpers import supervisors
from helpers.disks import SmallDisk
from helpers.processes import wait_until
from helpers.supervisors import MICROSECONDS, Talk, paired, plugin, shell, start

pytestmark = supervisors.usable()
PART = 2**16
SAY = 'import sys; w = sys.stdout.buffer.write; [w(b"%07d\\n" % n) for n in range(int(sys.argv[1]))]'


@pytest.fixture
def talk() -> Iterator[Talk]:
    with paired() as one:
        yield one


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk_or_skip(tmp_path / "disk", megabytes=2) as one:
        yield one


def lines(first: int, last: int) -> bytes:
    return b"".join(b"%07d\n" % n for n in range(first, last))


def everything(talk: Talk, run: int, stream: int, offset: int, end: int) -> dict[int, bytes]:
    """What is kept from an offset on, joined where it lies together."""
    talk.say(Window(run, stream, 0, 0))
    talk.in_step()
    talk.kept = [one for one in talk.kept if not isinstance(one, Said)]  # told for an earlier window
    talk.say(Window(run, stream, offset, 2**40))
    pieces: dict[int, bytes] = {}
    at = begin = offset
    while at < end:
        said = talk.hear(Said, where=lambda one: (one.run, one.stream) == (run, stream))
        if said.offset != at or not pieces:
            begin = said.offset
        pieces[begin] = pieces.get(begin, b"") + said.data
        at = said.offset + len(said.data)
    return pieces


def files_without_a_name(pid: int) -> int:
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += entry.name != "2" and "(deleted)" in str(entry.readlink())  # 2 is what the tests capture
    return found


def supervisor_pid(talk: Talk) -> int:
    assert talk.link._process is not None
    return talk.link._process.pid


def test_output_of_64_kib_comes_with_the_end_from_memory(talk: Talk) -> None:
    talk.say(plugin(1, "/usr/bin/env", "python3", "-c", SAY, str(PART // 8)), start(1, 1))
    end = talk.hear(End)
    assert (end.stdout_at, end.stdout_end, end.stdout) == (0, PART, lines(0, PART // 8))
    assert files_without_a_name(supervisor_pid(talk)) == 0


def test_more_is_in_a_file_without_a_name_and_can_be_asked_for_from_any_offset(talk: Talk) -> None:
    count = 100_000
    talk.say(plugin(1, "/usr/bin/env", "python3", "-c", SAY, str(count), max_output=2**21), start(1, 1))
    end = talk.hear(End)
    assert end.stdout_end == 8 * count
    assert files_without_a_name(supervisor_pid(talk)) == 1
    for offset in (0, 8, 8 * 50_000, 8 * count - 8, 8 * 12_345 + 3):
        assert everything(talk, 1, 1, offset, 8 * count) == {offset: lines(0, count)[offset:]}
    talk.say(Ack(1, 8 * count, 0, 0, Acknowledged.END))
    talk.in_step()
    assert files_without_a_name(supervisor_pid(talk)) == 0


def test_the_first_and_the_last_half_of_max_output_are_kept(talk: Talk) -> None:
    """And the node learns of the gap by the offset that follows it."""
    count, half = 100_000, 2**17
    talk.say(plugin(1, "/usr/bin/env", "python3", "-c", SAY, str(count), max_output=2 * half), start(1, 1))
    end = talk.hear(End)
    said = lines(0, count)
    assert everything(talk, 1, 1, 0, end.stdout_end) == {0: said[:half], len(said) - half: said[-half:]}
    assert everything(talk, 1, 1, half + 5, end.stdout_end) == {len(said) - half: said[-half:]}


@pytest.mark.parametrize("half", [0, 1, 1000, 2**15, 2**15 + 1])
def test_a_small_max_output_is_kept_in_memory_at_both_ends(talk: Talk, half: int) -> None:
    count = 20_000
    talk.say(plugin(1, "/usr/bin/env", "python3", "-c", SAY, str(count), max_output=2 * half), start(1, 1))
    end = talk.hear(End)
    said = lines(0, count)
    assert end.stdout_end == len(said)
    if half:
        assert everything(talk, 1, 1, 0, end.stdout_end) == {0: said[:half], len(said) - half: said[-half:]}


def test_said_keeps_to_the_window_and_events_come_whatever_it_says(talk: Talk) -> None:
    talk.say(shell(1, "echo 1234567; echo event >&3; echo more; exec sleep 60"), start(1, 1))
    talk.say(Window(1, 1, 0, 4))
    assert talk.hear(Said).data == b"1234"
    events = talk.hear(Events)
    assert (events.data, events.stdout_at >= 8) == (b"event\n", True)
    talk.in_step()
    assert not [one for one in talk.kept if isinstance(one, Said)]
    talk.say(Window(1, 1, 4, 4))
    assert talk.hear(Said)[1:] == (1, 4, b"567\n")
    talk.say(KillRun(1, Stop.CANCELLED))


def test_small_pieces_that_follow_each_other_are_told_together(talk: Talk) -> None:
    """A node that heard each of them alone would do nothing else."""
    count = 2000
    say = f"import os, time; [(os.write(1, b'%07d\\n' % n), time.sleep(0.0001)) for n in range({count})]"
    talk.say(plugin(1, "/usr/bin/env", "python3", "-c", say), start(1, 1), Window(1, 1, 0, 2**40))
    end = talk.hear(End)
    told = [one for one in talk.kept if isinstance(one, Said)]
    assert len(told) <= end.seconds / 5000 + 10
    assert b"".join(one.data for one in told) + end.stdout == lines(0, count)


def test_a_new_window_does_not_pass_a_gap_in_silence(talk: Talk) -> None:
    talk.say(plugin(1, "/usr/bin/env", "python3", "-c", SAY, "20000", max_output=2000), start(1, 1))
    end = talk.hear(End)
    talk.say(Window(1, 1, 500, 1000))
    first, second = talk.hear(Said), talk.hear(Said)
    assert (first.offset, len(first.data), second.offset, len(second.data)) == (500, 500, end.stdout_end - 1000, 500)


def test_events_before_an_end_are_told_whole(talk: Talk) -> None:
    count = 50_000
    script = SAY.replace("sys.stdout.buffer.write", 'open(3, "wb").write')
    talk.say(plugin(1, "/usr/bin/env", "python3", "-c", script, str(count)), start(1, 1))
    end = talk.hear(End)
    events = [one for one in talk.kept if isinstance(one, Events)]
    assert b"".join(one.data for one in events) + end.events == lines(0, count)
    assert (end.events_end, end.events_at) == (8 * count, 8 * count - len(end.events))


def test_descriptor_3_is_not_read_beyond_64_mib_that_the_store_does_not_have(talk: Talk) -> None:
    """A program that says more than anybody stores waits; nothing is lost."""
    size = 2**26 + 2**22
    script = f"""
import os
left = {size}
while left: left -= os.write(3, b"x" * min(left, 2**16))
print("written", flush=True)
"""
    talk.say(plugin(1, "/usr/bin/env", "python3", "-c", script), start(1, 1), Window(1, 1, 0, 2**20))
    read = 0
    while read < 2**26:
        read += len(talk.hear(Events, 60).data)
    talk.in_step()
    assert not [one for one in talk.kept if isinstance(one, (Said, End))]
    talk.say(Ack(1, 0, 0, read, Acknowledged.OFFSETS))
    end = talk.hear(End, 60)
    said = b"".join(one.data for one in talk.kept if isinstance(one, Said))
    assert said + end.stdout == b"written\n"
    read += sum(len(one.data) for one in talk.kept if isinstance(one, Events)) + len(end.events)
    assert read == end.events_end == size


def test_what_came_before_a_task_and_is_stored_is_not_kept(talk: Talk) -> None:
    script = "while read n; do echo out $n; echo done >&3; done"
    talk.say(shell(1, script), start(1, 1, flags=Input.OPEN))
    end = 0
    for number in range(1, 4):
        talk.say(Task(1, number, 0, 0, 0, 0, 2, b"", b"%d\n" % number))
        events = talk.hear(Events)
        assert events.stdout_at == 6 * number
        assert everything(talk, 1, 1, 0, 6 * number) == {end: b"out %d\n" % number}
        end = events.stdout_at
        talk.say(Ack(1, end, 0, events.offset + 5, Acknowledged.OFFSETS))
    talk.say(KillRun(1, Stop.REPLACED))


def test_a_closed_stream_is_told_while_the_program_runs_on(talk: Talk) -> None:
    talk.say(shell(1, "exec >&-; exec sleep 60", note=b""), start(1, 1))
    assert talk.hear(Closed)[:] == (1, 1)
    talk.say(KillRun(1, Stop.CANCELLED))
    talk.hear(End)
    assert not [one for one in talk.kept if isinstance(one, Closed)]


def test_a_long_input_is_read_as_it_was_given(talk: Talk) -> None:
    data = os.urandom(3 * 2**20)
    talk.say(shell(1, "sleep 0.3; cat", max_output=2**24))
    talk.say(start(1, 1, data[:PART], total=len(data)))
    talk.link.flush()

    for begin in range(PART, len(data), PART):
        talk.say(Stdin(1, data[begin : begin + PART]))
    end = talk.hear(End)
    assert (end.stdout_end, end.stdin_left, end.flags & How.STDIN_REFUSED) == (len(data), 0, 0)
    assert everything(talk, 1, 1, 0, len(data)) == {0: data}


@pytest.mark.parametrize(("size", "read"), [(10, 4), (PART, 1000), (5 * PART, 100_000)])
def test_what_a_program_did_not_read_of_its_input_is_counted(talk: Talk, size: int, read: int) -> None:

    data = b"x" * size
    talk.say(plugin(1, "/usr/bin/env", "python3", "-c", f"import os; print(len(os.read(0, {read})))"))
    talk.say(start(1, 1, data[:PART], total=size))
    for begin in range(PART, size, PART):
        talk.say(Stdin(1, data[begin : begin + PART]))
    end = talk.hear(End)
    assert end.stdin_left == size - int(end.stdout)
    assert bool(end.flags & How.STDIN_REFUSED) == (size > PART)


def test_an_input_that_cannot_be_kept_is_not_started(disk: SmallDisk) -> None:
    """A full disk costs that start, and nothing else."""
    with paired(files=disk.path) as talk:
        size = 2**22
        talk.say(shell(1, "wc -c"), start(1, 1, b"x" * PART, total=size))
        for _ in range(PART, size, PART):
            talk.say(Stdin(1, b"x" * PART))
        refused = talk.hear(NotStarted)
        assert (refused.run, refused.step) == (1, Step.SPOOL)
        talk.say(start(2, 1, b"four"))
        assert talk.end(2).stdout.strip() == b"4"


def test_a_full_disk_loses_the_middle_of_an_output_and_says_so(disk: SmallDisk) -> None:
    with paired(files=disk.path) as talk:
        count = 1_000_000
        talk.say(plugin(1, "/usr/bin/env", "python3", "-c", SAY, str(count), max_output=2**26), start(1, 1))
        end = talk.hear(End, 60)
        assert b"is lost" in talk.hear(Log).words
        said = lines(0, count)
        assert end.stdout_end == len(said)
        pieces = everything(talk, 1, 1, 0, end.stdout_end)
        (first, head), (second, tail) = pieces.items()
        assert (first, head) == (0, said[: len(head)])
        assert tail == said[second:]
        assert len(head) >= PART
        assert len(tail) >= 2**14


SAY_EVENTS = """
import os, sys
left = int(sys.argv[1])
while left:
    left -= os.write(3, b"x" * min(left, 2**16))
"""


def says_events(size: int, **more: int) -> tuple[Plugin, Start]:
    """A run that says so many bytes on descriptor 3."""
    command = ("/usr/bin/env", "python3", "-c", SAY_EVENTS, str(size))
    return plugin(1, *command, drain=MICROSECONDS // 10), start(1, 1, **more)


def hear_that_it_waits(talk: Talk, seconds: float = 0.5) -> None:
    """And that its end is not told, however long that lasts."""
    talk.hear(Log, where=lambda one: b"descriptor 3 is not read" in one.words)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > seconds)
    talk.in_step()
    assert not [one for one in talk.kept if isinstance(one, End)]


def events_of(talk: Talk, end: End) -> int:
    """How many bytes of events were told."""
    return sum(len(one.data) for one in talk.kept if isinstance(one, Events)) + len(end.events)


def test_events_that_fit_into_memory_need_no_disk(disk: SmallDisk) -> None:
    """Before, all but the first block of a run's events waited for a file: on a full disk every worker process hung."""
    with paired(files=disk.path) as talk:
        disk.fill()
        talk.say(shell(1, "for n in 1 2 3; do echo $n >&3; sleep 0.05; done; exec 3>&-; sleep 0.1"), start(1, 1))
        end = talk.end(1)
        assert b"".join(one.data for one in talk.kept if isinstance(one, Events)) + end.events == b"1\n2\n3\n"
        assert not end.flags & How.HELD_OPEN


def test_on_a_full_disk_a_program_waits_that_says_more_events_than_fit_and_none_is_lost(disk: SmallDisk) -> None:
    """Before, it waited for good, or until the node had stored some. It is not silent meanwhile: it is not heard."""
    size = 2**18
    with paired(files=disk.path) as talk:
        disk.fill()
        talk.say(*says_events(size, idle_timeout=2 * MICROSECONDS))  # enough to begin with, on any machine
        hear_that_it_waits(talk, seconds=2.5)
        disk.make_room()
        end = talk.end(1)
        assert (events_of(talk, end), end.events_end, end.stopped) == (size, size, Stop.NOT)


def test_what_a_program_has_said_when_it_ends_is_told_once_there_is_room(disk: SmallDisk) -> None:
    """Before, it was lost without a word: a result, a follow-up task, that a worker's task was done."""
    size = 2**16 + 1000  # the last bytes lie in the pipe
    with paired(files=disk.path) as talk:
        disk.fill()
        talk.say(*says_events(size))
        hear_that_it_waits(talk)
        disk.make_room()
        end = talk.end(1)
        assert (events_of(talk, end), end.events_end, end.status) == (size, size, 0)
        assert not end.flags & How.HELD_OPEN


@pytest.mark.parametrize("order", [StopRun, KillRun])
def test_a_run_that_only_waits_for_room_ends_when_it_is_told_to(
    disk: SmallDisk, order: type[StopRun | KillRun]
) -> None:
    """Its end is what it was, and the log says that something is missing."""
    with paired(files=disk.path) as talk:
        disk.fill()
        talk.say(*says_events(2**16 + 1000))
        hear_that_it_waits(talk)
        talk.say(order(1, Stop.CANCELLED))
        end = talk.end(1)
        assert (end.status, end.stopped) == (0, Stop.NOT) and 0 < end.events_end <= 2**16
        talk.hear(Log, where=lambda one: b"is lost" in one.words)


def test_all_output_together_takes_8_mib_of_memory_at_most(talk: Talk, tmp_path: Path) -> None:
    """200 runs with 60 KiB each."""
    (tmp_path / "x").write_bytes(b"x" * 60000)
    (tmp_path / "y").write_bytes(b"y" * 4000)
    talk.say(shell(1, f"cat {tmp_path}/x; cat {tmp_path}/y >&2; read line"))
    talk.say(*[start(run, 1, flags=Input.OPEN | Input.TELL) for run in range(1, 201)])
    for _ in range(200):
        talk.hear(Started, 60)
    talk.say(*[Window(run, 2, 3999, 1) for run in range(1, 201)])
    for _ in range(200):
        talk.hear(Said, 60)
    status = Path(f"/proc/{supervisor_pid(talk)}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 16_000
    assert files_without_a_name(supervisor_pid(talk)) > 0


def test_a_node_that_does_not_read_costs_no_memory(talk: Talk, tmp_path: Path) -> None:
    """Its socket is full; ENDs are made only when there is room."""
    (tmp_path / "lines").write_bytes(lines(0, 8000))
    talk.say(shell(1, f"exec cat {tmp_path}/lines"))
    before = talk.link
    for run in range(1, 101):
        before.send(start(run, 1))
    before.flush()
    pid = supervisor_pid(talk)
    children = Path(f"/proc/{pid}/status")
    wait_until(lambda: all_ended(pid), 60)
    peak = next(int(line.split()[1]) for line in children.read_text().splitlines() if line.startswith("VmHWM"))
    assert peak < 20_000
    for run in range(1, 101):
        assert talk.end(run).stdout == lines(0, 8000)


def all_ended(pid: int) -> bool:
    """Whether no thread of it has a child that runs."""
    return not any((thread / "children").read_text().strip() for thread in Path(f"/proc/{pid}/task").iterdir())

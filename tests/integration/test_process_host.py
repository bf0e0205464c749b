"""The seam between runs and processes, with real processes: numbers, notes, offsets, acknowledgments, usage."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from disbatch_host.process.host import OF_ITS_OWN
from disbatch_host.process.interface import (
    Deadlines,
    Environment,
    ProcessEnd,
    ProcessHost,
    Program,
    Start,
    StartError,
    StopReason,
    Stream,
    Usage,
)
from disbatch_host.process.named_plugins import WORDS_VERSION
from helpers.hosts import host_under_test
from helpers.processes import assert_group_is_gone, descriptors, state_of, wait_until

pytestmark = pytest.mark.usefixtures("each_supervisor")
OUT, ERR, EVENTS = Stream.STDOUT, Stream.STDERR, Stream.EVENTS


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() <= before


class Ear:
    """Keeps what is said, in its order."""

    def __init__(self) -> None:
        self.said_blocks: list[tuple[Stream, int, bytes]] = []
        self.closed_streams: list[Stream] = []
        self.end: asyncio.Future[ProcessEnd] = asyncio.get_running_loop().create_future()
        self._news = asyncio.Event()

    def said(self, stream: Stream, offset: int, data: bytes) -> None:
        self.said_blocks.append((stream, offset, data))
        self._news.set()

    def closed(self, stream: Stream) -> None:
        self.closed_streams.append(stream)
        self._news.set()

    def ended(self, end: ProcessEnd) -> None:
        self.end.set_result(end)

    def text(self, stream: Stream) -> bytes:
        return b"".join(data for one, _, data in self.said_blocks if one is stream)

    async def wait_for(self, is_there: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not is_there():
                self._news.clear()
                await self._news.wait()


def shell(script: str, **more: object) -> Start:
    program = Program(
        argv=("/bin/sh", "-c", script),
        directory=Path("/"),
        environment=Environment.of({"PATH": os.environ["PATH"], "ONE": "program"}),
    )
    return Start(program=program, **more)  # type: ignore[arg-type]


def at_a_host(test: Callable[[ProcessHost], Awaitable[None]]) -> None:
    """Nothing of what was started is left after it."""

    async def perform() -> None:
        processes = host_under_test()
        try:
            async with asyncio.timeout(60):
                await test(processes)
        finally:
            for process in processes.runs():
                process.kill(StopReason.SHUTDOWN)
            while not all(process.has_ended for process in processes.runs()):
                await asyncio.sleep(0.01)
            for process in processes.runs():
                assert_group_is_gone(process.pid)
            processes.close()

    asyncio.run(perform())


def test_runs_are_numbered_and_keep_their_notes_until_their_end_is_acknowledged() -> None:
    async def test(processes: ProcessHost) -> None:
        first, second = Ear(), Ear()
        one = await processes.start(shell("exit 3", note=b"task one"), first)
        two = await processes.start(shell("read line", note=b"task two", keeps_stdin_open=True), second)
        assert one.run < two.run
        assert (await first.end).exit_code == 3
        assert [(run.run, run.note, run.has_ended) for run in processes.runs()] == [
            (one.run, b"task one", True),
            (two.run, b"task two", False),
        ]
        one.forget()
        one.forget()
        assert [run.note for run in processes.runs()] == [b"task two"]
        with pytest.raises(ValueError, match="has not ended"):
            two.forget()
        two.close_stdin()
        await second.end
        two.forget()
        assert not processes.runs()

    at_a_host(test)


def test_what_could_not_be_started_leaves_nothing_behind() -> None:
    async def test(processes: ProcessHost) -> None:
        program = Program(argv=("/no/such/program",), directory=Path("/"), environment=Environment.of({}))
        with pytest.raises(StartError):
            await processes.start(Start(program=program, note=b"lost"), Ear())
        assert not processes.runs()

    at_a_host(test)


def test_output_comes_with_offsets_and_what_is_acknowledged_is_no_longer_counted() -> None:
    async def test(processes: ProcessHost) -> None:
        ear = Ear()
        process = await processes.start(
            shell("echo one; echo err >&2; read line; echo two; read line", keeps_stdin_open=True), ear
        )
        await ear.wait_for(lambda: ear.text(OUT) == b"one\n" and ear.text(ERR) == b"err\n")
        process.hand_over(b"", b"\n", Deadlines())
        await ear.wait_for(lambda: ear.text(OUT) == b"one\ntwo\n")
        assert [(offset, data) for stream, offset, data in ear.said_blocks if stream is OUT] == [
            (0, b"one\n"),
            (4, b"two\n"),
        ]
        assert process.unacknowledged == {OUT: 8, ERR: 4}
        process.acknowledge({OUT: 4, ERR: 4})
        process.acknowledge({OUT: 2})  # late, and so without effect
        assert process.unacknowledged == {OUT: 4}
        with pytest.raises(ValueError, match="was reported up to 8"):
            process.acknowledge({OUT: 9})
        process.close_stdin()
        await ear.end
        assert process.unacknowledged == {OUT: 4}
        process.forget()

    at_a_host(test)


def test_everything_written_before_an_event_is_said_before_it() -> None:
    """A worker's `done` is on another pipe than its output: what it printed before it belongs to that task."""

    async def test(processes: ProcessHost) -> None:
        script = "i=0; while [ $i -lt 300 ]; do echo $i; echo $i >&2; echo event $i >&3; i=$((i + 1)); done"
        ear = Ear()
        process = await processes.start(shell(script), ear)
        await ear.end
        printed = {OUT: b"", ERR: b"", EVENTS: b""}
        for stream, _, data in ear.said_blocks:
            printed[stream] += data
            if stream is EVENTS:
                last = printed[EVENTS].rstrip(b"\n").rpartition(b"\n")[2].split()
                if len(last) == 2 and printed[EVENTS].endswith(b"\n"):
                    for output in (OUT, ERR):
                        assert b"\n%s\n" % last[1] in b"\n" + printed[output]
        assert printed[EVENTS].count(b"\n") == 300
        process.forget()

    at_a_host(test)


def test_a_closed_stream_is_told_while_the_program_runs_on() -> None:
    async def test(processes: ProcessHost) -> None:
        ear = Ear()
        process = await processes.start(shell("exec 3>&-; read line", keeps_stdin_open=True), ear)
        await ear.wait_for(lambda: ear.closed_streams == [EVENTS])
        assert process.is_running and not process.has_ended
        process.close_stdin()
        await ear.end
        process.forget()

    at_a_host(test)


def test_a_start_has_variables_and_a_directory_of_its_own(tmp_path: Path) -> None:
    async def test(processes: ProcessHost) -> None:
        ear = Ear()
        start = shell('echo "$ONE $TWO $PWD"', variables={"TWO": "start"}, work_directory=tmp_path)
        process = await processes.start(start, ear)
        await ear.end
        assert ear.text(OUT).decode() == f"program start {tmp_path}\n"
        process.forget()

    at_a_host(test)


def test_what_is_handed_over_has_a_note_and_time_limits_of_its_own() -> None:
    async def test(processes: ProcessHost) -> None:
        ear = Ear()
        process = await processes.start(
            shell("while read line; do echo $line; done; sleep 600", keeps_stdin_open=True, note=b"worker"), ear
        )
        process.hand_over(b"first task", b"first\n", Deadlines(timeout_seconds=600))
        await ear.wait_for(lambda: ear.text(OUT) == b"first\n")
        assert process.note == b"first task"
        process.limit(Deadlines())  # those of the first task are void
        process.hand_over(b"second task", b"second\n", Deadlines(timeout_seconds=0.2))
        process.close_stdin()
        end = await ear.end
        assert (process.note, end.stopped) == (b"second task", StopReason.TIMEOUT)
        process.forget()

    at_a_host(test)


@pytest.mark.parametrize("earlier", [0, 1])
def test_what_is_handed_over_to_a_process_that_has_just_ended_is_left(earlier: int) -> None:
    """Its end may be on the way already: it was told without knowing of this."""

    async def test(processes: ProcessHost) -> None:
        ear = Ear()
        script = "echo begun; while read line; do echo $line; done"
        process = await processes.start(shell(script, keeps_stdin_open=True), ear)
        await ear.wait_for(lambda: ear.text(OUT) == b"begun\n")
        for _ in range(earlier):
            process.hand_over(b"one", b"one\n", Deadlines())
            await ear.wait_for(lambda: ear.text(OUT) == b"begun\none\n")
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: state_of(process.pid) in ("Z", ""))  # nothing is heard meanwhile
        process.hand_over(b"late", b"late\n", Deadlines())
        end = await ear.end
        assert (end.signal, end.stdin_left_bytes) == (signal.SIGKILL, len(b"late\n"))
        process.forget()

    at_a_host(test)


def test_usage_counts_cpu_time_from_what_was_handed_over_last() -> None:
    burn = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done"

    async def test(processes: ProcessHost) -> None:
        ear = Ear()
        process = await processes.start(
            shell(f"{burn}; echo burnt >&3; read line; echo idle >&3; read line; {burn}", keeps_stdin_open=True), ear
        )
        await ear.wait_for(lambda: b"burnt\n" in ear.text(EVENTS))
        burnt = process.usage()
        assert burnt.cpu_seconds > 0.02 and 0 < burnt.memory_bytes <= burnt.peak_memory_bytes
        process.hand_over(b"", b"\n", Deadlines())
        await ear.wait_for(lambda: b"idle\n" in ear.text(EVENTS))
        assert process.usage().cpu_seconds < burnt.cpu_seconds / 2
        process.close_stdin()
        end = await ear.end
        assert 0.02 < end.cpu_seconds < 2 * burnt.cpu_seconds + 0.05  # of the second loop, not of both
        assert process.usage() == Usage(cpu_seconds=0.0, memory_bytes=0, peak_memory_bytes=0)
        process.forget()

    at_a_host(test)


def test_a_pid_is_known_with_the_time_of_its_start() -> None:
    async def test(processes: ProcessHost) -> None:
        ear = Ear()
        process = await processes.start(shell("read line", keeps_stdin_open=True), ear)
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        assert process.pid_started == int(fields[19])
        process.close_stdin()
        await ear.end
        assert process.pid_started == int(fields[19])  # it was asked for while it ran
        process.forget()

    at_a_host(test)


@pytest.mark.parametrize("turns", [1, 2, 3, 10])
def test_a_start_that_nobody_waits_for_any_more_leaves_nothing(turns: int, tmp_path: Path) -> None:
    """Its end was held for a caller who had gone, so that the run stayed for ever, and a trial waited for it."""

    async def test(processes: ProcessHost) -> None:
        starting = asyncio.ensure_future(processes.start(shell(f"echo $$ > {tmp_path}/pid; exec sleep 600"), Ear()))
        for _ in range(turns):
            await asyncio.sleep(0)
        if not starting.cancel():
            return  # it was started by then: the caller has it
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        async with asyncio.timeout(30):
            while processes.runs():
                await asyncio.sleep(0.01)

    at_a_host(test)


def test_words_are_not_given_to_a_supervisor_of_a_version_that_would_leave_them_out() -> None:
    """It has runs, and no second one can be had beside it: then such a task waits, and others go on."""

    async def test() -> None:
        processes = host_under_test(hello=OF_ITS_OWN._replace(version_max=WORDS_VERSION - 1))
        processes.meet(20)
        try:
            with pytest.raises(StartError, match="of an earlier version"):
                await processes.start(shell("echo $#", words=(b"a",)), Ear())
            plain = Ear()
            process = await processes.start(shell("echo $#"), plain)
            await plain.end
            assert plain.text(OUT) == b"0\n"
            process.forget()
        finally:
            processes.close()

    asyncio.run(test())

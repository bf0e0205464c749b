"""A process host at a supervisor that outlives it: other connections to it, and other nodes of the same home."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from disbatch_host.process import connection, facts
from disbatch_host.process.frames import Window
from disbatch_host.process.home import SupervisorHome, SupervisorRefusedError
from disbatch_host.process.interface import KeptRun, ProcessEnd, Start, StartError, StopReason, Stream
from disbatch_host.process.supervised import SupervisedHost
from helpers import supervisors
from helpers.processes import stop, wait_until
from integration.test_process_host import Ear
from integration.test_process_host import shell as shell_start

pytestmark = supervisors.usable()


def home_in(directory: Path, session: int = 1, store_id: bytes = b"s" * 16) -> SupervisorHome:
    directory.mkdir(mode=0o700, exist_ok=True)
    return SupervisorHome(directory=directory, store_id=store_id, node_id=b"n1", session=session, keep_seconds=60)


def shell(script: str, **more: object) -> Start:
    """Of a program whose output is kept."""
    start = shell_start(script, **more)
    return replace(start, program=replace(start.program, max_output_bytes=2**22))


class Adopter(Ear):
    """The listener of a start that somebody else has made."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = False
        self.failure: StartError | None = None

    def begun(self) -> None:
        self.has_begun = True

    def not_started(self, error: StartError) -> None:
        self.failure = error


def at_home(
    directory: Path, test: Callable[[SupervisedHost], Awaitable[None]], *, session: int = 1, keep: bool = True
) -> None:
    async def perform() -> None:
        host = SupervisedHost(program=supervisors.program())
        await host.open(home_in(directory, session))
        try:
            async with asyncio.timeout(60):
                await test(host)
        finally:
            host.close(keep=keep)

    asyncio.run(perform())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "homes" / "one"


@pytest.fixture(autouse=True)
def no_supervisor_is_left(directory: Path) -> object:
    directory.parent.mkdir()
    yield
    supervisors.end_all_below(directory.parent)


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition, 30)


def break_a_rule(host: SupervisedHost) -> None:
    """The supervisor closes the connection at that."""
    assert host._at is not None
    host._at.host.send(Window(1, 9, 0, 0))


def test_a_run_goes_on_although_the_connection_is_lost(directory: Path, tmp_path: Path) -> None:
    """Also one that is started, and one that is stopped, while there is none."""
    script = f"echo one; while ! [ -e {tmp_path}/go ]; do sleep 0.1; done; echo two; seq 100000; exit 4"

    async def test(host: SupervisedHost) -> None:
        ear, meanwhile, deaf = Ear(), Adopter(), Ear()
        process = await host.start(shell(script), ear)
        other = await host.start(shell("trap 'exit 9' TERM; echo ready; while :; do sleep 0.02; done"), deaf)
        process.follow()
        other.follow()
        await ear.wait_for(lambda: ear.text(Stream.STDOUT) == b"one\n")
        await deaf.wait_for(lambda: deaf.text(Stream.STDOUT) == b"ready\n")
        pid = process.pid
        break_a_rule(host)
        await until(lambda: host.why_not_now() is not None)
        third = host.begin(shell("echo three; exit 3"), meanwhile)
        other.stop(StopReason.CANCELLED)
        await until(lambda: host.why_not_now() is None)
        (tmp_path / "go").touch()
        assert (await meanwhile.end).exit_code == 3 and meanwhile.text(Stream.STDOUT) == b"three\n"
        assert (await deaf.end).stopped is StopReason.CANCELLED
        end = await ear.end
        assert (end.exit_code, process.pid) == (4, pid)
        heard = bytearray()
        for _, offset, data in [one for one in ear.said_blocks if one[0] is Stream.STDOUT]:
            assert offset <= len(heard)
            heard[offset:] = data if offset + len(data) > len(heard) else heard[offset:]
        assert bytes(heard) == b"one\ntwo\n" + b"".join(b"%d\n" % number for number in range(1, 100_001))
        for one in (process, other, third):
            one.forget()
        assert not host.runs() and not host.kept()

    at_home(directory, test)


def test_an_end_that_was_acknowledged_into_a_lost_connection_is_acknowledged_again(directory: Path) -> None:
    async def test(host: SupervisedHost) -> None:
        ear = Ear()
        process = await host.start(shell("exit 0"), ear)
        await ear.end
        break_a_rule(host)
        await until(lambda: host.why_not_now() is not None)
        process.forget()
        await until(lambda: host.why_not_now() is None)

    at_home(directory, test)

    async def look(host: SupervisedHost) -> None:
        assert not host.kept()

    at_home(directory, look, session=2)


def test_another_process_of_the_same_home_goes_on_with_the_runs(directory: Path, tmp_path: Path) -> None:
    script = f"echo one; while ! [ -e {tmp_path}/go ]; do sleep 0.1; done; echo two; exit 4"
    pids: list[int] = []

    async def begin(host: SupervisedHost) -> None:
        ear = Ear()
        process = await host.start(shell(script, note=b"the note"), ear)
        process.follow()
        await ear.wait_for(lambda: ear.text(Stream.STDOUT) == b"one\n")
        process.acknowledge({Stream.STDOUT: 4})  # by a store, which does not have its end
        pids.append(process.pid)

    async def go_on(host: SupervisedHost) -> None:
        taken: list[bool] = []
        host.on_taken_over = lambda: taken.append(True)
        (kept,) = host.kept()
        assert (kept.note, kept.pid, kept.has_ended) == (b"the note", pids[0], False)
        ear = Adopter()
        process = host.adopt(kept, ear)
        assert not host.kept() and not ear.has_begun
        await ear.wait_for(lambda: ear.text(Stream.STDOUT) == b"one\n")
        assert ear.has_begun and process.pid == pids[0]
        # A third one comes, while this one is there: it says nothing more, and kills nothing.
        third = SupervisedHost(program=supervisors.program())
        await third.open(home_in(directory, 3))
        try:
            await until(lambda: taken)
            (kept,) = third.kept()
            late = Adopter()
            again = third.adopt(kept, late)
            (tmp_path / "go").touch()
            end = await late.end
            assert (end.exit_code, late.text(Stream.STDOUT)) == (4, b"one\ntwo\n") and end.seconds > 0
            assert not ear.end.done()
            again.forget()
        finally:
            third.close()

    at_home(directory, begin)
    at_home(directory, go_on, session=2)


def test_what_nobody_wants_is_forgotten_with_its_end(directory: Path, tmp_path: Path) -> None:
    wait = f"while ! [ -e {tmp_path}/go ]; do sleep 0.1; done"

    async def begin(host: SupervisedHost) -> None:
        for number in range(3):
            await host.start(shell("exit 0" if number == 2 else wait, note=b"%d" % number), Ear())

    def alive(kept: KeptRun) -> bool:
        return facts.process_started(kept.pid) == kept.pid_started

    async def decide(host: SupervisedHost) -> None:
        await until(lambda: True)
        stopped, left, ended = sorted(host.kept(), key=lambda one: one.note)
        assert ended.has_ended and alive(stopped) and alive(left)
        host.disown(stopped)
        host.leave_alone(left)
        host.leave_alone(ended)
        await until(lambda: not alive(stopped))
        assert alive(left) and not host.runs() and not host.kept()
        (tmp_path / "go").touch()
        await until(lambda: not alive(left))
        # Everything is forgotten there as well: so it ends, sooner or later, with nobody to hear of it.
        link, _, pid = connection.connect_in(directory)
        link.close()
        await until(lambda: len(supervisors_list(directory)) == 0)
        assert pid > 0

    at_home(directory, begin)
    wait_until(lambda: b"ended" in b"".join(supervisors_list(directory)), 20)
    at_home(directory, decide, session=2)


def supervisors_list(directory: Path) -> list[bytes]:
    done = subprocess.run([supervisors.program(), "--list", str(directory)], capture_output=True, check=False)
    return done.stdout.splitlines()


def test_the_supervisor_of_another_store_is_refused_and_nothing_changes(directory: Path) -> None:
    async def test(host: SupervisedHost) -> None:
        other = SupervisedHost(program=supervisors.program())
        with pytest.raises(SupervisorRefusedError, match="another store"):
            await other.open(home_in(directory, 2, store_id=b"o" * 16))
        other.close()
        ear = Ear()
        process = await host.start(shell("exit 3"), ear)
        assert (await ear.end).exit_code == 3
        process.forget()

    at_home(directory, test)


def test_what_a_dead_supervisor_had_is_killed_and_its_runs_are_told_and_another_one_is_there(directory: Path) -> None:
    async def test(host: SupervisedHost) -> None:
        ear = Ear()
        process = await host.start(shell("setsid sleep 600 & exec sleep 600"), ear)
        before = host.facts
        ((supervisor, _),) = supervisors.living_below(directory.parent)
        os.kill(supervisor, signal.SIGKILL)
        end: ProcessEnd = await ear.end
        assert end.is_unseen and facts.process_started(process.pid) is None
        process.forget()
        assert host.facts["supervisor"] != before["supervisor"] and host.facts["session"] == before["session"]
        later = Ear()
        another = await host.start(shell("exit 3"), later)
        assert (await later.end).exit_code == 3
        another.forget()

    at_home(directory, test)


def test_a_run_with_more_events_than_are_kept_goes_on_as_long_as_somebody_acknowledges_them(directory: Path) -> None:
    """It waited for ever in its write."""

    async def test(host: SupervisedHost) -> None:
        ear = Ear()
        process = await host.start(shell("head -c 80000000 /dev/zero >&3; exit 3"), ear)
        while not ear.end.done():
            process.acknowledge({Stream.EVENTS: sum(len(data) for one, _, data in ear.said_blocks)})
            await asyncio.wait([ear.end], timeout=0.1)
        assert ear.end.result().exit_code == 3
        assert sum(len(data) for _, _, data in ear.said_blocks) == 80_000_000
        process.forget()

    at_home(directory, test)


def test_one_that_stands_still_is_waited_for_and_never_taken_for_dead(directory: Path) -> None:
    """Whoever took it for dead would kill its runs, or have them run twice."""

    async def begin(host: SupervisedHost) -> None:
        await host.start(shell("exec sleep 600", note=b"the note"), Ear())

    at_home(directory, begin)
    ((supervisor, _),) = supervisors.living_below(directory.parent)

    async def perform() -> None:
        host = SupervisedHost(program=supervisors.program())
        opening = asyncio.create_task(host.open(home_in(directory, 2)))
        done, _ = await asyncio.wait([opening], timeout=6.0)  # longer than an answer is waited for
        assert not done
        os.kill(supervisor, signal.SIGCONT)
        try:
            async with asyncio.timeout(30):
                await opening
            assert host.keeps_runs and [one.note for one in host.kept()] == [b"the note"]
        finally:
            host.close(keep=True)

    stop(supervisor)
    try:
        asyncio.run(perform())
    finally:
        os.kill(supervisor, signal.SIGCONT)

"""A process host at disbatch-supervisor: what the class cannot come to."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from disbatch_host.process import connection, facts
from disbatch_host.process.host import FrameHost
from disbatch_host.process.interface import Deadlines, Environment, Program, Start, StartError, StopReason
from disbatch_host.process.supervised import SupervisedHost
from helpers import supervisors
from helpers.processes import wait_until
from integration.test_process_host import Ear
from supervisor.test_program_live import parent_of

pytestmark = supervisors.usable()


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place for temporary files in which none can be made."""
    monkeypatch.setenv("TMPDIR", "/proc")
    yield


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("sys.exit(1)", "the supervisor closed the connection"),
        ("os.write(int(sys.argv[2]), bytes(1000))", "expected a frame of 1 to"),
    ],
)
def test_the_class_is_used_where_the_program_ends_or_speaks_otherwise(script: str, why: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nimport os, sys\nif sys.argv[1] != '--self-test': {script}\n")
    program.chmod(0o755)

    async def perform() -> None:
        host, ear = SupervisedHost(program=program), Ear()
        try:
            await host.open()
            assert "without disbatch-supervisor" in host.description and why in host.description
            start = Program(argv=("/bin/true",), directory=Path("/"), environment=Environment.of({}))
            process = await host.start(Start(program=start), ear)
            assert (await ear.end).exit_code == 0
            process.forget()
        finally:
            host.close()

    asyncio.run(perform())


def test_what_a_run_has_left_is_killed_before_its_loss_is_told(tmp_path: Path) -> None:
    """Also what has neither the environment nor the session of the run, but for its parents."""
    script = f"setsid env -i sleep 600 & echo $! >{tmp_path}/pid; exec env -i sleep 600"

    async def perform() -> None:
        host, ear = SupervisedHost(program=supervisors.program()), Ear()
        await host.open()
        program = Program(
            argv=("/bin/sh", "-c", script),
            directory=Path("/"),
            environment=Environment.of({"PATH": os.environ["PATH"]}),
        )
        try:
            process = await host.start(Start(program=program), ear)
            await asyncio.to_thread(wait_until, lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
            os.kill(parent_of(process.pid), signal.SIGKILL)
            end = await ear.end
            assert (end.is_unseen, end.exit_code, end.signal, end.stopped) == (True, None, None, None)
            assert not process.is_running and process.has_ended
            pids = (process.pid, int((tmp_path / "pid").read_text()))
            assert [facts.process_started(pid) for pid in pids] == [None, None]
            process.forget()
            assert not host.runs()
        finally:
            host.close()

    asyncio.run(perform())


def test_an_input_that_cannot_be_kept_is_the_machines_fault(no_files: None) -> None:
    async def perform() -> None:
        host = FrameHost(connection.paired(supervisors.program()), drain_seconds=2.0)
        program = Program(argv=("/bin/cat",), directory=Path("/"), environment=Environment.of({}))
        try:
            with pytest.raises(StartError, match="its input cannot be kept") as caught:
                await host.start(Start(program=program, stdin=b"x" * 300_000), Ear())
        finally:
            host.close()
        assert caught.value.is_machines_fault

    asyncio.run(perform())


def test_a_task_that_cannot_be_kept_ends_its_process_and_counts_as_unread(no_files: None) -> None:
    """It was taken for the end of the start: the process was forgotten, and its task waited for ever."""

    async def perform() -> None:
        host, ear = FrameHost(connection.paired(supervisors.program()), drain_seconds=2.0), Ear()
        program = Program(
            argv=("/bin/sh", "-c", "echo ready; read line; sleep 600"),
            directory=Path("/"),
            environment=Environment.of({"PATH": os.environ["PATH"]}),
        )
        try:
            async with asyncio.timeout(30):
                process = await host.start(Start(program=program, keeps_stdin_open=True), ear)
                await ear.wait_for(lambda: bool(ear.said_blocks))
                process.hand_over(b"task", b"x" * 300_000, Deadlines())
                end = await ear.end
        finally:
            host.close()
        assert (end.stopped, end.stdin_left_bytes) == (StopReason.REPLACED, 300_000)

    asyncio.run(perform())

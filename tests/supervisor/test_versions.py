"""Versions of the frames: a node and a supervisor of which only one knows the later one work together, and what version
1 says never changes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from disbatch_host.process import connection
from disbatch_host.process.frames import FrameError, Hello, Look, Ready, SupervisorBye, SupervisorHello
from disbatch_host.process.home import directories
from disbatch_host.process.host import OF_ITS_OWN, FrameHost
from disbatch_host.process.inline import InlineSupervisor
from disbatch_host.process.interface import KeptRun, Process, Stream
from disbatch_host.process.link import LinkClosedError
from disbatch_host.process.supervised import SupervisedHost
from disbatch_host.process.written_ends import WrittenEnds
from helpers import supervisors
from helpers.supervisors import Home, Talk
from integration.test_process_host import Ear
from supervisor.test_frames import CASES
from supervisor.test_program_again import Adopter, home_in, shell, supervisors_list

needs_program = supervisors.usable()
# With these a later node empties an earlier supervisor, and an earlier node a later one.
NEVER_CHANGE = (
    "Hello", "Look", "SupervisorHello", "KeptPlugin", "Run", "Ready", "Window", "Said", "Events", "End", "Gone", "Ack",
    "StopRun", "NodeBye", "SupervisorBye",
)  # fmt: skip
DIGEST = "df4d6c4c05ce15a682247bdd92e880e61966668addc25273d507559460622736"
ANSWER = SupervisorHello(
    version=1, pid=1, started=1, session=1, next_run=1, capacity=1, mount_namespace=0, supervisor_id=b"s" * 16,
    fingerprint=b"", program_hash=b"",
)  # fmt: skip


@pytest.fixture(scope="module")
def earlier(request: pytest.FixtureRequest) -> Path:
    """A supervisor that speaks 1; the one of today speaks 1 to 2."""
    return supervisors.build_once(request.config, "-DFRAMES_VERSION_MAX=1", '-DSOURCE_HASH="earlier"')


def test_the_frames_of_version_1_that_empty_a_supervisor_never_change() -> None:
    """Where this fails, what is to be said anew needs a frame of its own, or a version of its own with vectors beside
    these: a supervisor that has a run of three days is met by nodes of any later version."""
    frozen = [(case["name"], case["bytes"]) for case in CASES if case.get("frame") in NEVER_CHANGE]
    assert {case["frame"] for case in CASES if case.get("frame") in NEVER_CHANGE} == set(NEVER_CHANGE)
    assert hashlib.sha256(json.dumps(frozen).encode()).hexdigest() == DIGEST


@needs_program
def test_of_two_ranges_the_highest_version_of_both_is_spoken(earlier: Path, tmp_path: Path) -> None:
    today = supervisors.program()
    for program, version_max, expected in (
        (earlier, 1, 1), (earlier, 2, 1), (today, 1, 1), (today, 2, 2), (today, 9, 2)
    ):  # fmt: skip
        talk = Talk(connection.paired(program, environment=os.environ))
        assert talk.hello(version_max=version_max).version == expected
        talk.link.close()
    home = Home(tmp_path / "home")
    try:
        talk = home.visit()
        with pytest.raises(LinkClosedError, match="this supervisor has 1 to 2"):
            talk.hello(key=home.key, version_min=3, version_max=4)
        talk = home.visit()
        talk.say(Look(home.key))
        assert talk.hear(SupervisorHello).version == 1, "who looks says no version: anybody may"
        talk.hear(SupervisorBye)
    finally:
        home.close()


@pytest.mark.parametrize("version_max", [1, 2])
def test_the_class_speaks_what_both_do(version_max: int) -> None:
    host = FrameHost(InlineSupervisor(), drain_seconds=1, hello=OF_ITS_OWN._replace(version_max=version_max))
    host.meet(5)
    assert host.hello is not None and host.hello.version == version_max
    host.close()


@pytest.mark.parametrize("hello", [OF_ITS_OWN, Look(b"")])
def test_an_answer_in_a_version_that_was_not_offered_is_not_understood(hello: Hello | Look) -> None:
    host = FrameHost(WrittenEnds([ANSWER._replace(version=3), Ready()]), drain_seconds=1, hello=hello)
    with pytest.raises(FrameError, match=r"from 1 to [12], found 3"):
        host.meet(1)
    host.close()


@needs_program
def test_runs_go_on_through_an_upgrade_and_a_downgrade(earlier: Path, tmp_path: Path) -> None:
    """Each run is begun by one version of node and supervisor, and ended by the other version of the node."""
    directory = tmp_path / "homes" / "one"
    directory.parent.mkdir()
    names: list[bytes] = []

    def life(session: int, program: Path, version_max: int, test: Callable[[SupervisedHost], Awaitable[None]]) -> None:
        async def perform() -> None:
            host = SupervisedHost(program=program, version_max=version_max)
            await host.open(home_in(directory, session))
            try:
                async with asyncio.timeout(60):
                    await test(host)
            finally:
                host.close(keep=True)

        asyncio.run(perform())

    def spoken(host: SupervisedHost) -> list[int]:
        """By each of its supervisors, first the one that takes new runs."""
        return [seat.host.hello.version for seat in host._seats if seat.host.hello is not None]

    async def begin(host: SupervisedHost, name: bytes) -> None:
        names.append(name)
        ear = Ear()
        script = f"echo one; while ! [ -e {tmp_path}/{name.decode()} ]; do sleep 0.05; done; echo two; exit 4"
        process = await host.start(shell(script, note=name), ear)
        process.follow()
        await ear.wait_for(lambda: ear.text(Stream.STDOUT) == b"one\n")

    async def end(host: SupervisedHost) -> None:
        (kept,) = host.kept()
        assert (kept.note, kept.has_ended) == (names[-1], False)
        await ended(host, kept)
        assert not host.runs() and not host.kept()

    async def ended(host: SupervisedHost, kept: KeptRun) -> None:
        ear = Adopter()
        process: Process = host.adopt(kept, ear)
        (tmp_path / kept.note.decode()).touch()
        assert ((await ear.end).exit_code, ear.text(Stream.STDOUT)) == (4, b"one\ntwo\n")
        process.forget()

    async def first(host: SupervisedHost) -> None:
        assert spoken(host) == [1]
        await begin(host, b"a")

    async def upgraded(host: SupervisedHost) -> None:
        assert spoken(host) == [2, 1]
        await end(host)
        await begin(host, b"b")

    async def downgraded(host: SupervisedHost) -> None:
        assert spoken(host)[:2] == [1, 1]
        await end(host)
        await begin(host, b"c")

    async def last(host: SupervisedHost) -> None:
        """A later node at an earlier program: it uses it for everything."""
        assert spoken(host)[0] == 1
        await end(host)

    today = supervisors.program()
    try:
        life(1, earlier, 1, first)
        life(2, today, 2, upgraded)
        life(3, earlier, 1, downgraded)
        life(4, earlier, 2, last)
        assert not [line for one in directories(directory) for line in supervisors_list(one)]
    finally:
        supervisors.end_all_below(directory.parent)

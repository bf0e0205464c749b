"""The home of a node: when there is one, its directory, its lock."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.errors import NodeIdInUseError
from disbatch_host.node.home import find_home, store_id_of
from disbatch_host.node.home_directory import HomeUnusableError, NodeLock, file_system_of, made_usable, supervisors_in
from disbatch_host.process.facts import process_started
from disbatch_host.process.home import SupervisorHome
from disbatch_host.settings.values import NodeSettings, resolve
from helpers.parts import Bench, on_bench

# Takes the lock in a directory, says so, and holds it until it is told to end.
HOLDING = """
import sys
from pathlib import Path
from disbatch_host.node.home_directory import NodeLock
lock = NodeLock()
lock.open(Path(sys.argv[1]))
print(lock.is_held, flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def another_holder(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def found(
    tmp_path: Path,
    lock: NodeLock | None = None,
    *,
    store: str = "one",
    why_no_program: str | None = None,
    **settings: Any,
) -> SupervisorHome | None:
    """The home that a node n1 finds with one of several stores."""
    homes = []
    of_node = {"node_id": "n1", "plugins": (), "state_directory": tmp_path / "state", **settings}

    async def test(bench: Bench) -> None:
        bench.plugins.rmdir()  # the next one makes it again
        home = await find_home(
            NodeSettings(**of_node),
            bench.parts.store_thread,
            lock or NodeLock(),
            why_no_program=why_no_program,
            wait_seconds=0.2,
        )
        assert home is None or home.store_id == store_id_of(bench.store)
        homes.append(home)

    (tmp_path / store).mkdir(exist_ok=True)
    on_bench(tmp_path / store, test)
    return homes[0]


def test_a_home_is_named_by_node_and_store_and_is_its_users_alone(tmp_path: Path) -> None:
    lock = NodeLock()
    home = found(tmp_path, lock, keep_for_seconds=60.0)
    assert home is not None and lock.is_held and lock.holder() == os.getpid()
    assert home.directory == tmp_path / "state" / f"n1-{home.store_id.hex()[:8]}"
    assert (home.node_id, home.session, home.keep_seconds) == (b"n1", 1, 60.0)
    assert home.directory.stat().st_mode & 0o777 == 0o700
    assert (home.directory / "node.lock").stat().st_mode & 0o777 == 0o600
    assert [one.name for one in home.directory.iterdir()] == ["node.lock"]
    lock.release()


def test_two_stores_never_share_a_home(tmp_path: Path) -> None:
    one, two = NodeLock(), NodeLock()
    first, second = found(tmp_path, one), found(tmp_path, two, store="two")
    assert first is not None and second is not None
    assert first.directory != second.directory and one.is_held and two.is_held
    one.release()
    two.release()


def test_a_node_whose_runs_are_to_end_with_it_has_no_home_and_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert found(tmp_path, until_idle=True) is None
    assert found(tmp_path, may_keep_runs=False) is None
    assert found(tmp_path, why_no_program="it is not there") is None
    assert not (tmp_path / "state").exists() and not caplog.records


def test_the_variable_gives_the_supervisor_to_the_node() -> None:
    def of(value: str | None) -> tuple[bool, bool]:
        node = resolve({}, {"HOME": "/home/x", **({} if value is None else {"DISBATCH_SUPERVISOR": value})}).node
        return node.may_use_program, node.may_keep_runs

    assert [of(None), of(""), of("connection"), of("no")] == [(True, True), (True, True), (True, False), (False, False)]


@pytest.mark.parametrize("what", ["none", "file", "mode", "link", "beneath a file", "long"])
def test_a_directory_that_cannot_be_used_is_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    state: Path | None = tmp_path / "state"
    name = "n1-00000000"
    assert state is not None
    match what:
        case "none":
            state, expected = None, "there is no state directory; name one with --state-dir"
        case "beneath a file":
            (tmp_path / "file").write_text("")
            state, expected = tmp_path / "file" / "state", "cannot be made: Not a directory"
        case "long":
            state, expected = tmp_path / ("x" * 300), "cannot be made: File name too long"
        case _:
            state.mkdir()
            expected = {"file": "cannot be made: Not a directory", "link": "cannot be made", "mode": "mode 0750"}[what]
            match what:
                case "file":
                    (state / name).write_text("")
                case "link":
                    (tmp_path / "elsewhere").mkdir(mode=0o700)
                    (state / name).symlink_to(tmp_path / "elsewhere")
                case "mode":
                    (state / name).mkdir()
                    (state / name).chmod(0o750)
            with pytest.raises(HomeUnusableError, match=expected):
                made_usable(state, name)
            return
    assert found(tmp_path, state_directory=state) is None
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("runs of this node end with it: ") and message.endswith(expected) and "\n" not in message


@pytest.mark.parametrize("asked", [{"until_idle": True}, {"may_keep_runs": False}])
def test_a_node_of_which_somebody_wants_that_its_runs_end_with_it_does_not_warn_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asked: dict[str, bool]
) -> None:
    assert found(tmp_path, **asked) is None
    assert caplog.records == []


def test_a_state_directory_that_takes_no_files_has_no_home(tmp_path: Path) -> None:
    """/proc takes none, whoever asks; a read-only file system fails in the same call."""
    with pytest.raises(HomeUnusableError, match="cannot be made"):
        made_usable(Path("/proc/self"), "n1-00000000")


def test_a_very_long_path_is_as_good_as_any(tmp_path: Path) -> None:
    """The address of a socket has 108 bytes."""
    state = tmp_path / ("x" * 100) / ("y" * 100)
    lock = NodeLock()
    lock.open(made_usable(state, "n1-00000000"))
    assert lock.is_held
    lock.release()


def test_a_file_system_that_machines_share_is_recognized(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "40 22 0:41 / /home rw,relatime shared:9 master:1 - nfs4 server:/home rw,vers=4.2\n"
    )
    assert file_system_of(os.makedev(0, 41), mounts) == "nfs4"
    assert file_system_of(os.makedev(0, 20), mounts) == "ext4"
    assert file_system_of(os.makedev(0, 99), mounts) is None
    assert file_system_of(os.makedev(0, 41), tmp_path / "missing") is None


def test_a_home_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    directory = made_usable(tmp_path, "home")
    lock = NodeLock()
    with another_holder(directory) as holder:
        lock.open(directory)
        assert not lock.is_held and lock.holder() == holder.pid
        assert not asyncio.run(lock.wait(0.1))
        holder.send_signal(signal.SIGKILL)
        assert asyncio.run(lock.wait(10)), "the kernel ends it with its process"
        assert lock.holder() == os.getpid()
    lock.release()
    lock.release()
    assert lock.holder() is None


def test_a_program_that_the_node_starts_does_not_hold_its_home(tmp_path: Path) -> None:
    directory = made_usable(tmp_path, "home")
    lock, later = NodeLock(), NodeLock()
    lock.open(directory)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        lock.release()
        later.open(directory)
        assert later.is_held and child.poll() is None
    later.release()


def test_who_finds_the_home_of_its_id_in_use_ends_with_one_clear_line(tmp_path: Path) -> None:
    lock = NodeLock()
    first = found(tmp_path, lock)
    assert first is not None and first.session == 1
    lock.release()
    with another_holder(first.directory) as holder:
        with pytest.raises(NodeIdInUseError) as raised:
            found(tmp_path, NodeLock())
        message = str(raised.value)
        assert f"process {holder.pid} of this machine" in message and "--force" in message and "\n" not in message
        forced = NodeLock()
        home = found(tmp_path, forced, force=True)
        assert home is not None and home.session == 2 and not forced.is_held, "the older one ends by what follows"
        holder.kill()
        assert asyncio.run(forced.wait(10))
        forced.release()


def test_a_node_that_starts_waits_for_the_process_of_one_that_has_just_left(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        membership = bench.parts.membership
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as leaving:
            document = {
                "_id": "n1", "session": "s", "version": "disbatch-host 0", "host": membership.machine.document,
                "pid_started": process_started(leaving.pid), "heartbeat": {"pid": leaving.pid},
                "away": {"until": bench.store.now() + timedelta(minutes=10), "by": "SIGTERM"},
            }  # fmt: skip
            assert bench.store.put_node(document, replacing=None)
            finding = asyncio.ensure_future(membership.find_holder(force=False, dead_after_seconds=30))
            await asyncio.wait([finding], timeout=0.3)
            assert not finding.done()
            leaving.kill()
            await asyncio.to_thread(leaving.wait)
            async with asyncio.timeout(10):
                holder = await finding
        assert holder is not None and holder.session == "s"

    on_bench(tmp_path, test)


def test_a_node_that_is_away_keeps_its_id_from_other_machines(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        document = {
            "_id": "n1", "session": "s", "version": "disbatch-host 0", "settings": {"dead_after_seconds": -1},
            "host": {"name": "mig01", "boot_id": "other", "pid_namespace": "pid:[1]"}, "heartbeat": {"pid": 1},
            "away": {"until": bench.store.now() + timedelta(minutes=10), "by": "ann@mig01", "why": "upgrade"},
        }  # fmt: skip
        assert bench.store.put_node(document, replacing=None)
        with pytest.raises(NodeIdInUseError) as raised:
            await bench.parts.membership.find_holder(force=False, dead_after_seconds=30)
        message = str(raised.value)
        assert message.startswith("node n1 is away until ") and "its runs are on machine mig01; start it" in message
        holder = await bench.parts.membership.find_holder(force=True, dead_after_seconds=30)
        assert holder is not None and holder.session == "s"

    on_bench(tmp_path, test)


def test_a_supervisor_is_there_as_long_as_it_holds_its_lock(tmp_path: Path) -> None:
    directory = made_usable(tmp_path, "home")
    assert not supervisors_in(directory) and not supervisors_in(tmp_path / "missing")
    lock = directory / "supervisor.lock"
    lock.touch()
    assert not supervisors_in(directory)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert supervisors_in(directory) == [directory]
    assert not supervisors_in(directory)
    lock.unlink()
    os.mkfifo(lock)  # nobody waits for a writer
    assert not supervisors_in(directory)
    for odd in ("a\0b", "x" * 5000, "\ud800"):
        assert not supervisors_in(Path(odd))

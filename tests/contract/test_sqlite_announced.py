"""Hearing on SQLite that others have written: real other processes commit, and the system announces it, or does not."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.store.contract.answers import Look
from disbatch_host.store.sqlite import SqliteStore
from disbatch_host.store.sqlite.foreign_commits import WATCH_SECONDS
from disbatch_host.store.sqlite.watcher import SqliteWatcher
from disbatch_host.store.sqlite.write_events import WriteEvents
from helpers.processes import descriptors, wait_until
from helpers.stores import push

# Each line is a statement, carried out and committed; or "open", which opens the file again.
OTHER_PROCESS = """
import sqlite3, sys
connection = None
for line in sys.stdin:
    if line == "open\\n":
        connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
    elif line == "close\\n":
        connection.close()
    else:
        connection.execute(line).fetchall()
    print("done", flush=True)
"""
ONE_TASK = "INSERT INTO tasks (queue) VALUES ('q')"
CHECKPOINT = "PRAGMA wal_checkpoint(TRUNCATE)"
# The link of a descriptor of inotify.
INOTIFY = "anon_inode:inotify"


class OtherProcess:
    """A program that writes to the file, and knows nothing of this one."""

    def __init__(self, file: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OTHER_PROCESS, str(file)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def does(self, *lines: str) -> None:
        """Returns once that is done."""
        assert self._process.stdin is not None and self._process.stdout is not None
        for line in lines:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
            assert self._process.stdout.readline() == "done\n"

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


@pytest.fixture
def other(sqlite_file: Path, sqlite: SqliteStore) -> Iterator[OtherProcess]:
    one = OtherProcess(sqlite_file)
    one.does("open")
    yield one
    one.end()


def no_instance() -> WriteEvents:
    """As if `fs.inotify.max_user_instances` were reached."""
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Silent(WriteEvents):
    """As on a file system that takes a watch and then does not announce what others write."""

    def watch(self, path: Path) -> None:
        super().watch(path.with_name("silent"))


def silent_beside(file: Path) -> Callable[[], WriteEvents]:
    file.with_name("silent").touch()
    return Silent


class Full(WriteEvents):
    """As long as `fs.inotify.max_user_watches` is reached."""

    is_full = True

    def watch(self, path: Path) -> None:
        if Full.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().watch(path)


@pytest.fixture
def open_with(sqlite_file: Path, sqlite: SqliteStore) -> Iterator[Callable[[Callable[[], WriteEvents]], SqliteStore]]:
    """Opens the store once more, with this way to have writes announced."""
    opened: list[SqliteStore] = []

    def open_one(make_events: Callable[[], WriteEvents]) -> SqliteStore:
        one = SqliteStore(sqlite_file, SystemClock(), make_events=make_events)
        one.open()
        opened.append(one)
        return one

    yield open_one
    for one in opened:
        one.close()


def is_readable(descriptor: int, within_seconds: float = 0.0) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * within_seconds))


def quiet(store: SqliteStore) -> int:
    """The descriptor on which the store's next change is announced, once nothing is going on any more."""
    looks: list[Look] = []

    def is_quiet() -> bool:
        looks.append(store.written_by_others())
        return looks[-1].announced_on is not None and not looks[-1].has_changed

    wait_until(is_quiet, what="the store is quiet")
    assert looks[-1].announced_on is not None
    return looks[-1].announced_on


def assert_hears(store: SqliteStore, act: Callable[[], None]) -> None:
    descriptor = quiet(store)
    assert not is_readable(descriptor)
    act()
    assert is_readable(descriptor, 10)
    wait_until(lambda: store.written_by_others().has_changed, what="the change is found")
    assert not is_readable(descriptor)


def test_one_small_commit_of_another_process_is_announced(sqlite: SqliteStore, other: OtherProcess) -> None:
    """SQLite writes the log by pwrite; what it does to the index of the log, a shared memory, nobody would hear."""
    for _ in range(3):
        assert_hears(sqlite, lambda: other.does("UPDATE notes SET document = document", ONE_TASK))


@pytest.mark.parametrize(
    "before",
    [
        [CHECKPOINT],
        [ONE_TASK, CHECKPOINT],
        ["VACUUM"],
        ["close", "open"],
        ["PRAGMA journal_size_limit = 0", CHECKPOINT],
    ],
)
def test_it_is_announced_after_the_log_was_reset(sqlite: SqliteStore, other: OtherProcess, before: list[str]) -> None:
    push(sqlite, {})
    quiet(sqlite)
    other.does(*before)
    assert_hears(sqlite, lambda: other.does(ONE_TASK))


def test_it_is_announced_after_the_log_was_deleted_and_made_anew(
    sqlite: SqliteStore, sqlite_file: Path, other: OtherProcess
) -> None:
    quiet(sqlite)
    sqlite.close()
    other.does(ONE_TASK, "close")  # the last connection to the file
    assert not Path(f"{sqlite_file}-wal").exists()
    sqlite.open()
    other.does("open")
    assert_hears(sqlite, lambda: other.does(ONE_TASK))


def test_it_is_announced_where_the_path_leads_over_a_link(
    tmp_path: Path, sqlite_file: Path, sqlite: SqliteStore, other: OtherProcess
) -> None:
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(sqlite_file)
    store = SqliteStore(link, SystemClock())
    store.open()
    assert_hears(store, lambda: other.does(ONE_TASK))
    store.close()


def test_what_a_store_writes_itself_wakes_nobody(sqlite: SqliteStore) -> None:
    descriptor = quiet(sqlite)
    for _ in range(5):
        push(sqlite, {}, {})
        sqlite.promote_due()
        assert not is_readable(descriptor)
        assert not sqlite.written_by_others().has_changed


def test_a_write_of_its_own_does_not_hide_one_by_others(sqlite: SqliteStore, other: OtherProcess) -> None:
    descriptor = quiet(sqlite)
    other.does(ONE_TASK)
    push(sqlite, {})
    assert is_readable(descriptor)
    assert sqlite.written_by_others().has_changed


def test_looks_that_follow_an_announcement_become_rare_again(sqlite: SqliteStore, other: OtherProcess) -> None:
    assert sqlite.written_by_others().again_seconds == 1.0
    other.does(ONE_TASK)
    look = sqlite.written_by_others()
    assert look.has_changed and look.again_seconds < WATCH_SECONDS and look.announced_on is None
    rare: list[float] = []

    def is_rare() -> bool:
        rare.append(sqlite.written_by_others().again_seconds)
        return rare[-1] > 5 * WATCH_SECONDS

    wait_until(is_rare)
    assert rare == sorted(rare)


def test_commits_that_follow_each_other_are_not_looked_for_more_often_than_without_announcements(
    sqlite: SqliteStore, other: OtherProcess
) -> None:
    sqlite.written_by_others()
    looks = []
    for _ in range(30):
        other.does(ONE_TASK)
        looks.append(sqlite.written_by_others())
    # On a busy machine two of them may be far apart, and then it begins anew.
    assert all(look.has_changed for look in looks)
    assert max(look.again_seconds for look in looks if look.announced_on is None) == WATCH_SECONDS


@pytest.mark.parametrize("is_away", ["no instance", "no watch"])
def test_where_nothing_is_announced_looks_are_frequent(
    open_with: Callable[..., SqliteStore], other: OtherProcess, is_away: str
) -> None:
    store = open_with(no_instance if is_away == "no instance" else Full)
    store.written_by_others()
    other.does(ONE_TASK)
    assert store.written_by_others() == Look(has_changed=True, again_seconds=WATCH_SECONDS)
    assert store.written_by_others() == Look(has_changed=False, again_seconds=WATCH_SECONDS)


def test_what_is_announced_again_is_heard_again(
    open_with: Callable[..., SqliteStore], other: OtherProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_with(Full)
    assert store.written_by_others().announced_on is None
    monkeypatch.setattr(Full, "is_full", False)
    assert_hears(store, lambda: other.does(ONE_TASK))


def test_a_file_system_that_announces_nothing_is_found_out(
    open_with: Callable[..., SqliteStore], sqlite_file: Path, other: OtherProcess
) -> None:
    store = open_with(silent_beside(sqlite_file))
    quiet(store)
    for _ in range(3):
        assert store.written_by_others().announced_on is not None
        other.does(ONE_TASK)
        push(store, {})  # its own writes prove nothing
        assert store.written_by_others().has_changed  # as the look once a second does
    other.does(ONE_TASK)
    assert store.written_by_others() == Look(has_changed=True, again_seconds=WATCH_SECONDS)


def test_a_watched_file_that_is_gone_is_noticed(tmp_path: Path) -> None:
    file, events = tmp_path / "file", WriteEvents()
    file.touch()
    events.watch(file)
    file.write_text("one")
    assert is_readable(events.descriptor) and events.is_pending() and events.take()
    assert not events.is_pending() and not events.take() and events.is_watching
    file.unlink()
    assert events.take() and not events.is_watching
    with pytest.raises(OSError, match="inotify_add_watch: No such file"):
        events.watch(file)
    file.touch()
    events.watch(file)
    file.write_text("two")
    assert events.take() and events.is_watching
    events.close()
    events.close()


def test_a_watcher_is_woken_by_an_announcement_and_not_by_a_look(sqlite_file: Path, other: OtherProcess) -> None:
    events: list[WriteEvents] = []

    def made() -> WriteEvents:
        events.append(WriteEvents())
        return events[-1]

    watcher = SqliteWatcher(sqlite_file, made)
    while watcher.wait(0.1):
        pass
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(watcher.wait(60)))
    thread.start()
    other.does(ONE_TASK)
    thread.join(20)
    assert answers == [True] and len(events) == 1
    watcher.close()


@pytest.mark.parametrize("how", ["no instance", "silent"])
def test_a_watcher_to_which_nothing_is_announced_wakes_all_the_same(
    sqlite_file: Path, other: OtherProcess, how: str
) -> None:
    watcher = SqliteWatcher(sqlite_file, no_instance if how == "no instance" else silent_beside(sqlite_file))
    while watcher.wait(0.1):
        pass
    for _ in range(4):
        other.does(ONE_TASK)
        began = time.monotonic()
        assert watcher.wait(60)
        assert time.monotonic() - began < 20
    watcher.close()


def test_the_descriptor_goes_with_the_store_and_with_the_watcher(sqlite_file: Path) -> None:
    before = descriptors()
    store = SqliteStore(sqlite_file, SystemClock())
    store.open()
    watcher = store.watch()
    watcher.wait(0.01)
    quiet(store)
    assert len(descriptors() - before) >= 4
    watcher.close()
    store.close()
    assert descriptors() == before


LISTING = f"""
import os
for one in range(256):
    name = f"/proc/self/fd/{{one}}"
    if os.path.lexists(name) and os.readlink(name) == {INOTIFY!r}:
        print("inherited", one)
print("end")
"""


def test_programs_that_are_started_do_not_inherit_it(sqlite: SqliteStore, tmp_path: Path) -> None:
    quiet(sqlite)
    found = tmp_path / "found"
    with found.open("w") as output:
        pid = os.posix_spawn(
            sys.executable, [sys.executable, "-c", LISTING], os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, output.fileno(), 1)],
        )  # fmt: skip
        os.waitpid(pid, 0)
        subprocess.run([sys.executable, "-c", LISTING], close_fds=False, stdout=output, check=True)
    assert found.read_text() == "end\nend\n"


def count_looks(store: SqliteStore) -> list[float]:
    """The times at which somebody will have looked."""
    looks: list[float] = []
    look = store.written_by_others

    def counted() -> Look:
        looks.append(time.monotonic())
        return look()

    store.written_by_others = counted  # type: ignore[method-assign]
    return looks


def listening(store: SqliteStore, act: Callable[[list[float], asyncio.Event], Any]) -> None:
    """What happens to a node's use of the store: `act` gets the times of its looks, and an event set by a change."""

    async def run() -> None:
        changed, looks = asyncio.Event(), count_looks(store)
        thread = StoreThread(store, on_change=changed.set, pace=Pace())
        thread.start()
        try:
            async with asyncio.timeout(30):
                await act(looks, changed)
        finally:
            await thread.stop()

    asyncio.run(run())


def test_an_idle_node_looks_once_a_second_and_hears_at_once(sqlite: SqliteStore, other: OtherProcess) -> None:
    async def act(looks: list[float], changed: asyncio.Event) -> None:
        await changed.wait()  # the first look has always found something
        changed.clear()
        while len(looks) < 3:
            await asyncio.sleep(0)
        assert looks[1] - looks[0] > 0.9 and looks[2] - looks[1] > 0.9
        assert not changed.is_set()
        await asyncio.to_thread(other.does, ONE_TASK)
        await changed.wait()
        assert time.monotonic() - looks[2] < 0.9  # long before the next look

    listening(sqlite, act)


def test_what_the_thread_of_a_node_writes_does_not_wake_its_event_loop(sqlite: SqliteStore) -> None:
    async def run() -> None:
        changed, looks = asyncio.Event(), count_looks(sqlite)
        thread = StoreThread(sqlite, on_change=changed.set, pace=Pace())
        thread.start()
        try:
            await changed.wait()
            changed.clear()
            for _ in range(20):
                await thread.call(lambda store: push(store, {}))
            assert len(looks) <= 2 + (looks[-1] - looks[0])  # those that come once a second
            assert not changed.is_set()
        finally:
            await thread.stop()

    asyncio.run(run())


def test_a_node_to_which_nothing_is_announced_hears_all_the_same(
    open_with: Callable[..., SqliteStore], other: OtherProcess
) -> None:
    async def act(looks: list[float], changed: asyncio.Event) -> None:
        for _ in range(3):
            await changed.wait()
            changed.clear()
            await asyncio.to_thread(other.does, ONE_TASK)
        await changed.wait()
        assert len(looks) > 3

    listening(open_with(no_instance), act)


def test_a_node_hears_while_the_thread_uses_the_store(sqlite: SqliteStore, other: OtherProcess) -> None:
    async def run() -> None:
        changed, free = asyncio.Event(), threading.Event()
        thread = StoreThread(sqlite, on_change=changed.set, pace=Pace())
        thread.start()
        try:
            async with asyncio.timeout(30):
                await changed.wait()
                changed.clear()
                call = thread.call(lambda store: free.wait(20))
                await asyncio.to_thread(other.does, ONE_TASK)
                free.set()
                assert await call
                await changed.wait()
        finally:
            free.set()
            await thread.stop()

    asyncio.run(run())

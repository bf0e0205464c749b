"""The file of a SQLite store that somebody deletes, moves, replaces or empties while it is open."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.errors import StoreLostError, StoreRefusedError, StoreUnwritableError
from disbatch_host.store.contract.answers import Access
from disbatch_host.store.sqlite import SqliteStore
from helpers.lost_files import delete_all, move_directory, replace
from helpers.stores import push, rounds_until


def delete(file: Path) -> None:
    file.unlink()


def replace_by_directory(file: Path) -> None:
    file.rename(file.with_name("aside.db"))
    file.mkdir()


def replace_directory_by_file(file: Path) -> None:
    move_directory(file)
    file.parent.write_text("not a directory")


def delete_log(file: Path) -> None:
    Path(f"{file}-wal").unlink()


def replace_index(file: Path) -> None:
    Path(f"{file}-shm").unlink()
    Path(f"{file}-shm").write_bytes(b"\0" * 32768)


def empty(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate()


@pytest.fixture
def deep_file(tmp_path: Path) -> Path:
    return tmp_path / "directory" / "test.db"


@pytest.mark.parametrize(
    "harm",
    [
        delete, delete_all, replace, replace_by_directory, move_directory, replace_directory_by_file, delete_log,
        replace_index, empty,
    ],
)  # fmt: skip
def test_nothing_is_written_into_a_file_that_nobody_sees(deep_file: Path, harm: Callable[[Path], None]) -> None:
    store = SqliteStore(deep_file, SystemClock())
    store.open()
    push(store, {})
    harm(deep_file)
    if harm not in (delete_log, replace_index):
        with pytest.raises(StoreLostError, match="while it was in use"):
            push(store, {})
    for _ in rounds_until(lambda: raises_lost(store)):
        pass  # a read notices it too, a moment later at most, and then the files beside it have been looked at as well
    with pytest.raises(StoreLostError, match="while it was in use"):
        push(store, {})
    with pytest.raises(StoreLostError), store.together():
        push(store, {})
    store.close()


def raises_lost(store: SqliteStore) -> bool:
    try:
        store.queues()
    except StoreLostError:
        return True
    return False


def test_the_same_file_that_comes_back_is_used_again(deep_file: Path) -> None:
    store = SqliteStore(deep_file, SystemClock())
    store.open()
    deep_file.rename(deep_file.with_name("aside"))
    with pytest.raises(StoreLostError):
        push(store, {})
    deep_file.with_name("aside").rename(deep_file)
    push(store, {})
    assert store.count_tasks(TaskFilter()) == 1
    store.close()


def test_a_file_that_a_moved_copy_replaced_is_opened_by_those_that_come_later(deep_file: Path) -> None:
    first = SqliteStore(deep_file, SystemClock())
    first.open()
    delete_all(deep_file)
    second = SqliteStore(deep_file, SystemClock())
    second.open()
    push(second, {}, {})
    assert second.count_tasks(TaskFilter()) == 2
    with pytest.raises(StoreLostError):
        push(first, {})
    first.close()
    second.close()


def test_a_second_store_in_one_process_leaves_the_locks_of_the_first(sqlite_file: Path) -> None:
    """Opening and closing the file by hand dropped all locks that the process had on it, so that another process, when
    it closed the file, took itself for the last one and removed the log that this one went on writing."""
    first, second = SqliteStore(sqlite_file, SystemClock()), SqliteStore(sqlite_file, SystemClock())
    first.open()
    push(first, {})
    second.open()
    second.close()
    look = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        "print(c.execute('SELECT count(*) FROM tasks').fetchone()[0]); c.close()"
    )
    for count in (1, 2):
        found = subprocess.run(
            [sys.executable, "-c", look, str(sqlite_file)], capture_output=True, text=True, check=True
        )
        assert found.stdout == f"{count}\n"
        assert Path(f"{sqlite_file}-wal").exists()
        push(first, {})
    first.close()
    with sqlite3.connect(sqlite_file) as by_hand:
        assert by_hand.execute("SELECT count(*) FROM tasks").fetchone() == (3,)


def test_a_link_to_a_file_that_is_not_there_yet_leads_to_a_private_file(tmp_path: Path) -> None:
    link, file = tmp_path / "link.db", tmp_path / "real.db"
    link.symlink_to(file)
    store = SqliteStore(link, SystemClock())
    store.open()
    push(store, {})
    assert file.stat().st_mode & 0o777 == 0o600
    store.close()


def test_a_directory_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    for access in Access:
        with pytest.raises(StoreUnwritableError, match="Is a directory; name a file in it"):
            SqliteStore(tmp_path, SystemClock(), access).open()
    with pytest.raises(StoreRefusedError, match="is not there"):
        SqliteStore(tmp_path / "x.db", SystemClock(), Access.EXISTING).open()
    store = SqliteStore(tmp_path / "x.db", SystemClock(), Access.OR_EMPTY)
    store.open()
    assert store.queues() == [] and not (tmp_path / "x.db").exists()
    store.close()


@pytest.mark.parametrize(("harm", "words"), [(delete, "is not there"), (empty, "is empty")])
def test_a_log_whose_file_is_gone_is_kept_until_it_is_back(
    sqlite_file: Path, harm: Callable[[Path], None], words: str
) -> None:
    """Incident: a file was deleted without its log, and the next command deleted the log, with the newest tasks in it,
    without a word."""
    store = SqliteStore(sqlite_file, SystemClock())
    store.open()
    push(store, {})
    content = sqlite_file.read_bytes()
    assert Path(f"{sqlite_file}-wal").stat().st_size
    harm(sqlite_file)
    with pytest.raises(StoreRefusedError, match=f"{words}, but files of a database"):
        SqliteStore(sqlite_file, SystemClock()).open()
    sqlite_file.write_bytes(content)
    again = SqliteStore(sqlite_file, SystemClock())
    again.open()
    assert again.count_tasks(TaskFilter()) == 1
    again.close()


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_directory_in_the_place_of_a_file_beside_it_is_pointed_at(sqlite_file: Path, suffix: str) -> None:
    store = SqliteStore(sqlite_file, SystemClock())
    store.open()
    store.close()
    Path(f"{sqlite_file}{suffix}").mkdir()
    with pytest.raises(StoreUnwritableError, match=r"beside it \(-wal, -shm\)"):
        reopened(sqlite_file)


def reopened(file: Path) -> None:
    store = SqliteStore(file, SystemClock())
    try:
        store.open()
        push(store, {})
    finally:
        store.close()


_HOLDER = """
import sys
from pathlib import Path
from disbatch_host.clock import SystemClock
from disbatch_host.documents.records import new_task
from disbatch_host.store.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]), clock=SystemClock())
store.open()
store.insert_tasks([new_task("q", {}, now=store.now()) for _ in range(200)])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held_file(tmp_path: Path) -> Iterator[Path]:
    """A file that another process has open, with tasks that are only in its log."""
    file = tmp_path / "held.db"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
        yield file
        holder.kill()


@pytest.mark.parametrize("access", [Access.CREATE, Access.EXISTING, Access.OR_EMPTY])
@pytest.mark.parametrize("beside", ["-wal", "-shm", ""])
@pytest.mark.parametrize("found", ["is not there", "is empty"])
def test_the_log_of_a_deleted_database_is_named(held_file: Path, access: Access, beside: str, found: str) -> None:
    """`queue create` after the file was deleted beside a living node ended in "disk I/O error; check the disk"."""
    held_file.unlink()
    if found == "is empty":
        held_file.touch()
    if beside:
        Path(f"{held_file}{beside}").unlink()
    left = [name for name in (f"{held_file}-wal", f"{held_file}-shm") if Path(name).exists()]
    with pytest.raises(StoreRefusedError) as caught:
        SqliteStore(held_file, clock=SystemClock(), access=access).open()
    assert f"held.db {found}, but files of a database that was at its path are left ({', '.join(left)})" in str(
        caught.value
    )
    for name in left:
        Path(name).rename(f"{name}.old")
    store = SqliteStore(held_file, clock=SystemClock())
    store.open()
    assert not list(store.find_tasks(TaskFilter()))
    store.close()


def test_another_database_beside_an_older_index_is_told(held_file: Path, tmp_path: Path) -> None:
    """As after a copy was put in its place while the files beside it were forgotten."""
    other = tmp_path / "other.db"
    store = SqliteStore(other, clock=SystemClock())
    store.open()
    store.close()
    other.replace(held_file)
    Path(f"{held_file}-wal").unlink()
    with pytest.raises(StoreUnwritableError, match=r"held\.db-wal and .*held\.db-shm: they may belong to a database"):
        SqliteStore(held_file, clock=SystemClock()).open()

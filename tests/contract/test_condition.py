"""A store that is only looked at: it says how it is, and nothing of it changes, whatever state it is in."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.errors import StoreError, StoreRefusedError
from disbatch_host.store.contract import SCHEMA_VERSION, Store
from disbatch_host.store.contract.answers import Access
from disbatch_host.store.mongo import MongoStore
from disbatch_host.store.open import open_store
from disbatch_host.store.sqlite import SqliteStore


def looking_at(url: str) -> Store:
    store = open_store(url, SystemClock(), Access.LOOK)
    store.open()
    return store


def test_a_store_in_use_says_that_all_is_there_and_what_is_in_it(store: Store, store_url: str) -> None:
    store.insert_queue({"_id": "q", "class": "A"})
    looking = looking_at(store_url)
    try:
        found = looking.condition()
        assert found.layout == SCHEMA_VERSION and found.missing_indexes == ()
        assert found.why_not_write is None and found.why_not_index is None
        assert found.product.split()[0] in ("SQLite", "MongoDB") and found.answer_seconds < 30
        assert [one.id for one in looking.queues()] == ["q"] and looking.nodes() == []
        assert abs((looking.now() - store.now()).total_seconds()) < 60 and looking.waiting_queues() == set()
        store.insert_queue({"_id": "r", "class": "A"})
        assert [one.id for one in looking.queues()] == ["q", "r"], "of a store that somebody uses, all is seen"
    finally:
        looking.close()


def files_of(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {one.name: (one.stat().st_mtime_ns, one.read_bytes()) for one in directory.iterdir()}


def test_of_a_file_that_nobody_uses_nothing_is_made_beside_it_or_in_it(sqlite: SqliteStore, sqlite_file: Path) -> None:
    sqlite.insert_queue({"_id": "q", "class": "A"})
    sqlite.close()
    before = files_of(sqlite_file.parent)
    looking = looking_at(f"sqlite://{sqlite_file}")
    assert looking.condition().layout == SCHEMA_VERSION and [one.id for one in looking.queues()] == ["q"]
    with pytest.raises(StoreError):
        looking.insert_queue({"_id": "r", "class": "A"})
    looking.close()
    assert files_of(sqlite_file.parent) == before


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreRefusedError, match="is not there"):
        looking_at(f"sqlite://{tmp_path}/deep/test.db")
    assert list(tmp_path.iterdir()) == []


def test_an_older_newer_damaged_or_foreign_file_is_told_apart_and_left(sqlite: SqliteStore, sqlite_file: Path) -> None:
    sqlite.close()
    url = f"sqlite://{sqlite_file}"

    def change(*statements: str) -> None:
        connection = sqlite3.connect(sqlite_file)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    change("DROP INDEX tasks_waiting", "DROP TRIGGER follower_made")
    looking = looking_at(url)
    assert looking.condition().missing_indexes == ("follower_made", "tasks_waiting")
    looking.close()
    for version in (1, SCHEMA_VERSION + 1):
        change(f"PRAGMA user_version = {version}")
        before = files_of(sqlite_file.parent)
        looking = looking_at(url)
        assert looking.condition().layout == version
        looking.close()
        assert files_of(sqlite_file.parent) == before
    change("PRAGMA user_version = 0")
    looking = looking_at(url)
    with pytest.raises(StoreRefusedError, match="some other program"):
        looking.condition()
    looking.close()
    sqlite_file.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreRefusedError, match="not a database"):
        looking_at(url)
    sqlite_file.write_bytes(b"")
    looking = looking_at(url)
    assert looking.condition().layout is None
    looking.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_only_be_read_says_so(sqlite: SqliteStore, sqlite_file: Path) -> None:
    sqlite.close()
    sqlite_file.chmod(0o400)
    looking = looking_at(f"sqlite://{sqlite_file}")
    assert "Permission denied" in str(looking.condition().why_not_write)
    looking.close()


@pytest.mark.mongodb
@pytest.mark.own_database
def test_in_a_database_that_nobody_has_used_nothing_is_made(mongo_url: str, raw: Any) -> None:
    looking = looking_at(mongo_url)
    found = looking.condition()
    assert (found.layout, found.missing_indexes, found.announces) == (None, (), True)
    assert found.form.startswith("replica set") and looking.queues() == [] and looking.nodes() == []
    looking.close()
    assert raw.list_collection_names() == []


@pytest.mark.mongodb
@pytest.mark.own_database
def test_removed_indexes_and_a_changed_version_of_a_database_are_named_and_left(mongo: MongoStore, raw: Any) -> None:
    raw["tasks"].drop_index("awaited_1_status_1")
    raw["disbatch_host"].update_one({"_id": "layout"}, {"$set": {"version": SCHEMA_VERSION}})
    before = sorted(raw["tasks"].index_information())
    assert mongo.condition().missing_indexes == ("tasks (awaited, status)",)
    raw["disbatch_host"].update_one({"_id": "layout"}, {"$set": {"version": "?"}})
    assert mongo.condition().layout == 0
    raw["disbatch_host"].update_one({"_id": "layout"}, {"$set": {"version": SCHEMA_VERSION}})
    assert sorted(raw["tasks"].index_information()) == before

"""Fixtures of the tests that are only MongoDB's: a database of their own, as the store and as any program sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymongo
import pytest

from disbatch_host.clock import SystemClock
from disbatch_host.store.mongo import MongoStore
from helpers.mongod import Mongod


@pytest.fixture
def url(mongod_server: Mongod) -> Iterator[str]:
    with mongod_server.database() as url:
        yield url


@pytest.fixture
def mongo(url: str) -> Iterator[MongoStore]:
    store = MongoStore(url, SystemClock())
    store.open()
    yield store
    store.close()


@pytest.fixture
def second_mongo(url: str, mongo: MongoStore) -> Iterator[MongoStore]:
    """Another process's view of the same database."""
    store = MongoStore(url, SystemClock())
    store.open()
    yield store
    store.close()


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """The database as any other program sees it."""
    with pymongo.MongoClient(url, tz_aware=True) as client:
        yield client.get_default_database()

"""Fixtures that every kind of test may use: both stores, the real mongod, a cluster to play with.

Where a program or package is missing, tests are skipped with the reason; with DISBATCH_REQUIRE_ALL set, as in
`.ci/run`, they fail instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pymongo
import pytest
from hypothesis import HealthCheck, settings

from disbatch_host.clock import SystemClock
from disbatch_host.store.contract import Store
from disbatch_host.store.mongo import MongoStore
from disbatch_host.store.open import open_store
from disbatch_host.store.sqlite import SqliteStore
from helpers import forked, mongod, nodes
from helpers.disks import CannotMount, SmallDisk, small_disk
from helpers.hosts import each_supervisor  # noqa: F401

# How long an example takes says nothing on a machine that is busy with the other tests.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


# Each of several processes collects six thousand tests, none of which is garbage before the end.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # nor is it to be looked at again with each collection to come
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "own_database: gets a new MongoDB database, not one that was emptied")
    # Of all tests together, also those with a home of their own: a Go program is built in a second, not in ten.
    cache = getattr(config, "cache", None)  # it is not there with -p no:cacheprovider
    if cache is not None:
        os.environ.setdefault("GOCACHE", str(cache.mkdir("go")))
    # Each node and each plugin in Python is a process of its own: it would compile the whole program at its start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Plugins ask for python3: a version manager's script in front of it takes longer than the interpreter to start.
    os.environ["PATH"] = f"{Path(sys.executable).resolve().parent}{os.pathsep}{os.environ['PATH']}"
    # Runs that outlive their node are for the tests that are about them: they have a home of their own.
    os.environ["DISBATCH_SUPERVISOR"] = "connection"
    os.environ.setdefault("GOFLAGS", "-trimpath")  # as plugins are built: what is compiled once is of use to all
    _hear_signals()


def pytest_sessionfinish() -> None:
    forked.end()


def _hear_signals() -> None:
    """Whoever runs the tests in the background, or by nohup, has them ignore these signals, and with them everything
    that they start; what is tested here is started by hand."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


class ObjectPatch(pytest.MonkeyPatch):
    """Patches objects and classes, never modules: what a test has to change, the code takes as a parameter."""

    def setattr(self, target: Any, name: Any, value: Any, raising: bool = True) -> None:
        assert not isinstance(target, ModuleType), f"{target} is a module: pass in what the test needs to change"
        super().setattr(target, name, value, raising)


@pytest.fixture
def monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    patch = ObjectPatch()
    yield patch
    patch.undo()


def skip_or_fail(reason: str) -> None:
    """Skip the test, or fail it where nothing may be skipped."""
    if os.environ.get("DISBATCH_REQUIRE_ALL"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def small_disk_or_skip(path: Path, *, megabytes: int) -> Iterator[SmallDisk]:
    """See `helpers.disks.small_disk`."""
    try:
        with small_disk(path, megabytes=megabytes) as one:
            yield one
    except CannotMount as error:
        skip_or_fail(str(error))


@pytest.fixture
def require(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Call it with the name of a program that the test needs."""

    def require(program: str) -> None:
        if shutil.which(program) is None:
            skip_or_fail(f"no {program!r} in PATH")
        if program == "go":
            _fill_go_cache(request.config)

    return require


def _fill_go_cache(config: pytest.Config) -> None:
    """The first worker that needs Go compiles its standard library, which takes ten seconds of a processor; the others
    wait."""
    cache = getattr(config, "cache", None)
    if cache is None:
        return
    with (cache.mkdir("go-once") / "is-done").open("a+") as done:
        fcntl.flock(done, fcntl.LOCK_EX)
        if done.tell() == 0:
            home = Path(__file__).parents[1] / "plugins" / "go" / "linestats"
            command = ["go", "build", "-trimpath", "-buildvcs=false", "-o", os.devnull, "."]
            more = {"CGO_ENABLED": "0", "GOWORK": "off", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
            subprocess.run(command, cwd=home, env={**os.environ, **more}, check=True)
            done.write("done\n")


@pytest.fixture(scope="session")
def own_mongod() -> Callable[..., mongod.Mongod]:
    """`start_mongod`, for a server that the test may kill or that is set up otherwise."""

    def own_mongod(**how: bool) -> mongod.Mongod:
        try:
            return mongod.start_mongod(**how)
        except mongod.MongodMissing as error:
            skip_or_fail(str(error))
            raise

    return own_mongod


@pytest.fixture(scope="session")
def mongod_server(own_mongod: Callable[..., mongod.Mongod]) -> Iterator[mongod.Mongod]:
    """One real MongoDB for the whole session."""
    with own_mongod() as running:
        yield running


@pytest.fixture(scope="session")
def shared_database(mongod_server: mongod.Mongod) -> Iterator[mongod.SharedDatabase]:
    """One database for all tests of this process, each of which finds it empty: a new one costs 14 indexes."""
    with mongod_server.database() as url, mongod.SharedDatabase(url) as shared:
        yield shared


@pytest.fixture
def mongo_url(request: pytest.FixtureRequest, mongod_server: mongod.Mongod) -> Iterator[str]:
    """The URL of an empty database; a new one for a test with the mark `own_database`."""
    if request.node.get_closest_marker("own_database"):
        with mongod_server.database() as url:
            yield url
        return
    shared: mongod.SharedDatabase = request.getfixturevalue("shared_database")
    yield shared.emptied()


@pytest.fixture
def raw(mongo_url: str) -> Iterator[Any]:
    """The database as any other program sees it."""
    with pymongo.MongoClient(mongo_url, tz_aware=True) as client:
        yield client.get_default_database()


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    """Where the file of an empty store may be made."""
    return tmp_path / "test.db"


@pytest.fixture(params=["sqlite", pytest.param("mongodb", marks=pytest.mark.mongodb)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/store/test.db"
    url: str = request.getfixturevalue("mongo_url")
    return url


@contextlib.contextmanager
def opened(url: str) -> Iterator[Any]:
    """A store; closed at the end."""
    one = open_store(url, SystemClock())
    one.open()
    yield one
    one.close()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with opened(store_url) as one:
        yield one


@pytest.fixture
def second_store(store_url: str, store: Store) -> Iterator[Store]:
    """Another process's view of the same store."""
    with opened(store_url) as one:
        yield one


@pytest.fixture
def mongo(mongo_url: str) -> Iterator[MongoStore]:
    with opened(mongo_url) as one:
        yield one


@pytest.fixture
def second_mongo(mongo_url: str, mongo: MongoStore) -> Iterator[MongoStore]:
    """Another process's view of the same database."""
    with opened(mongo_url) as one:
        yield one


@pytest.fixture
def sqlite(sqlite_file: Path) -> Iterator[SqliteStore]:
    with opened(f"sqlite://{sqlite_file}") as one:
        yield one


@pytest.fixture
def cluster(store_url: str, store: Store, tmp_path: Path) -> Iterator[nodes.Cluster]:
    with nodes.cluster(store_url, store, tmp_path) as one:
        yield one


@pytest.fixture(scope="module", params=["sqlite", pytest.param("mongodb", marks=pytest.mark.mongodb)])
def living(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[nodes.Living]:
    """A cluster of each kind with a living node, for all tests of a module that need no node of their own."""
    directory = tmp_path_factory.mktemp("living")
    with contextlib.ExitStack() as stack:
        url = f"sqlite://{directory}/store/test.db"
        if request.param == "mongodb":
            url = stack.enter_context(request.getfixturevalue("mongod_server").database())
        store = stack.enter_context(opened(url))
        yield stack.enter_context(nodes.living(url, store, directory))


@pytest.fixture
def mongo_cluster(mongo_url: str, mongo: MongoStore, tmp_path: Path) -> Iterator[nodes.Cluster]:
    """For what is only MongoDB's."""
    with nodes.cluster(mongo_url, mongo, tmp_path) as one:
        yield one

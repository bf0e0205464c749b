"""Fixtures that every kind of test may use: both stores, the real mongod, a cluster to play with.

Where a program or package is missing, tests are skipped with the reason; with DISBATCH_REQUIRE_ALL set, as in
`.ci/run`, they fail instead.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from disbatch_host.clock import SystemClock
from disbatch_host.store.contract import Store
from disbatch_host.store.open import open_store
from helpers import mongod, nodes

# How long an example takes says nothing on a machine that is busy with the other tests.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


def pytest_configure(config: pytest.Config) -> None:
    # Of all tests together, also those with a home of their own: a Go program is built in a second, not in ten.
    cache = getattr(config, "cache", None)  # it is not there with -p no:cacheprovider
    if cache is not None:
        os.environ.setdefault("GOCACHE", str(cache.mkdir("go")))
    _hear_signals()


def _hear_signals() -> None:
    """Whoever runs the tests in the background, or by nohup, has them ignore these signals, and with them everything
    that they start; what is tested here is started by hand."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def skip_or_fail(reason: str) -> None:
    """Skip the test, or fail it where nothing may be skipped."""
    if os.environ.get("DISBATCH_REQUIRE_ALL"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def require() -> Callable[[str], None]:
    """Call it with the name of a program that the test needs."""

    def require(program: str) -> None:
        if shutil.which(program) is None:
            skip_or_fail(f"no {program!r} in PATH")

    return require


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


@pytest.fixture(params=["sqlite", pytest.param("mongodb", marks=pytest.mark.mongodb)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store of each kind."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/store/test.db"
        return
    server: mongod.Mongod = request.getfixturevalue("mongod_server")
    with server.database() as url:
        yield url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    one = open_store(store_url, SystemClock())
    one.open()
    yield one
    one.close()


@pytest.fixture
def second_store(store_url: str, store: Store) -> Iterator[Store]:
    """Another process's view of the same store."""
    one = open_store(store_url, SystemClock())
    one.open()
    yield one
    one.close()


@pytest.fixture
def cluster(store_url: str, store: Store, tmp_path: Path) -> Iterator[nodes.Cluster]:
    with nodes.cluster(store_url, store, tmp_path) as one:
        yield one

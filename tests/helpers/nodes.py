"""Plugins written by a test, nodes started by it as their users start them, and stores looked at from outside."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jsonschema

from disbatch_host.clock import SystemClock
from disbatch_host.documents import records
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Task
from disbatch_host.store.contract import Store
from disbatch_host.store.open import open_store
from disbatch_protocol import schemas
from disbatch_protocol import status as statuses
from disbatch_protocol.document import plain_document
from helpers import forked, supervisors
from helpers.processes import stop, wait_until

AnyCluster = TypeVar("AnyCluster", bound="Cluster")

# A program that only fails when it is started: a kernel may have been told of such a format, and this one was not.
UNKNOWN_FORMAT = b"\0 and no more"
COMMAND = [sys.executable, "-m", "disbatch_host"]
_WITH_HELPERS = {"PYTHONPATH": str(Path(__file__).parents[1])}  # for a node that is a module of the tests
# Dead nodes are looked for each five seconds, and watched for four: too long for a test that waits for it.
QUICK_TO_NOTICE = {"sweep_seconds": 0.2, "confirm_seconds": 1.0}
# Each test of a living node has a queue of its own, which the node would see a second later.
QUICK_TO_SEE = {"refresh_seconds": 0.1, "due_seconds": 0.2}


def write_plugin(directory: Path, name: str, program: str, *, file: str = "run.sh", **manifest: Any) -> Path:
    """A plugin directory with a program (a shell script unless it brings its own first line) and its manifest."""
    home = directory / name
    home.mkdir(parents=True, exist_ok=True)
    text = program if program.startswith("#!") else f"#!/bin/sh\n{program}\n"
    replacement = home / f".{file}.new"
    replacement.write_text(text)
    replacement.chmod(0o755)
    replacement.rename(home / file)  # never a half-written program for a node that looks just now
    (home / "plugin.json").write_text(json.dumps({"protocol": 1, "command": [f"./{file}"], "name": name, **manifest}))
    for path in (home, home / "plugin.json"):
        path.chmod(path.stat().st_mode & ~0o022)
    return home


class Cluster:
    """A store, a directory of plugins, and the nodes that a test starts on them."""

    def __init__(self, url: str, store: Store, directory: Path) -> None:
        self.url = url
        self.store = store
        self.plugins = directory / "plugins"
        self.plugins.mkdir()
        self.directory = directory
        self.processes: list[forked.Started] = []
        # Where supervisors live that outlive their nodes. As users have it, with DISBATCH_TESTS_WITH_HOMES=1.
        self.state: Path | None = directory / "state" if os.environ.get("DISBATCH_TESTS_WITH_HOMES") == "1" else None

    def keep_runs(self) -> None:
        """The nodes that are started from now on have a home: their runs go on without them, until the test ends."""
        self.state = self.directory / "state"

    def plugin(self, name: str, program: str, **manifest: Any) -> Path:
        return write_plugin(self.plugins, name, program, **manifest)

    def queue(self, class_name: str, queue_id: str | None = None, **fields: Any) -> Any:
        return self.store.insert_queue({"_id": queue_id or class_name, "class": class_name, **fields})

    def push(self, queue: Any, *parameters: Any, **more: Any) -> list[Any]:
        now = SystemClock().now()
        return self.store.insert_tasks([records.new_task(queue, one, now=now, **more) for one in parameters])

    def task(self, task_id: Any) -> Task:
        task = self.store.get_task(task_id)
        assert task is not None
        return task

    def tasks(self, **which: Any) -> list[Task]:
        return list(self.store.find_tasks(TaskFilter(**which)))

    def output(self, task_id: Any, stream: str = "stdout") -> bytes:
        """The whole output, as `task output` puts it together."""
        task = self.task(task_id)
        if task.run["output"][stream]["in_file"]:
            return b"".join(self.store.read_output(task_id, task.run["token"], stream))
        return str(task.document[stream]).encode()

    def start(
        self,
        *options: str,
        node_id: str = "n1",
        env: dict[str, str] | None = None,
        through: Sequence[str] = (),
        url: str | None = None,
        pace: Mapping[str, float] | None = None,
        is_afresh: bool = False,
    ) -> forked.Started:
        """A node in the background; its log goes to a file that a failing test shows. `through`: a command that runs
        it; `url`: another way to the same store; `pace`: its intervals that are not the usual ones; `is_afresh`: no
        copy (`helpers/forked.py`)."""
        command = COMMAND if pace is None else [sys.executable, "-m", "helpers.paced_node", json.dumps(pace)]
        options = ("--store", url or self.url, "--plugins", str(self.plugins), "--node-id", node_id, *options)
        environment = dict(os.environ)
        if self.state is not None:
            options = (*options, "--state-dir", str(self.state))
            del environment["DISBATCH_SUPERVISOR"]
        process: forked.Started | None = None
        with (self.directory / f"{node_id}.log").open("ab") as log:
            if not (through or is_afresh):
                told = {**environment, **(env or {})}
                process = forked.start_node(options, stdout=log, stderr=log, pace=pace, environment=told)
            if process is None:
                process = subprocess.Popen(
                    [*through, *command, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**environment, **({} if pace is None else _WITH_HELPERS), **(env or {})},
                    start_new_session=True,
                )
        self.processes.append(process)
        return process

    def run(self, *options: str, node_id: str = "n1", timeout_seconds: float = 60, **more: Any) -> str:
        """A node until nothing is left to do; what it logged."""
        process = self.start("--until-idle", *options, node_id=node_id, **more)
        code = process.wait(timeout_seconds)
        log = self.log(node_id)
        assert code == 0, log
        return log

    def finish(self, *task_ids: Any) -> None:
        """See to it that these tasks end."""
        self.run()

    def own_name(self, name: str) -> str:
        """The name of a plugin, made one that no other test has where others have plugins here."""
        return name

    def run_one(self, queue: Any, parameters: Any = None, **more: Any) -> Task:
        """Push one task, run it, and read it."""
        (task_id,) = self.push(queue, {} if parameters is None else parameters)
        self.run(**more)
        return self.task(task_id)

    def log(self, node_id: str = "n1") -> str:
        return (self.directory / f"{node_id}.log").read_text()

    def wait_for_status(self, task_id: Any, *wanted: int, within_seconds: float = 20) -> Task:
        wait_until(
            lambda: self.task(task_id).status in wanted,
            within_seconds,
            f"task {task_id} never became {wanted}",
        )
        return self.task(task_id)

    def wait_for_all(self, within_seconds: float = 60) -> None:
        wait_until(
            lambda: all(statuses.is_finished(task.status) for task in self.store.find_tasks(TaskFilter())),
            within_seconds,
            "not all tasks are finished",
        )

    def check_documents(self) -> None:
        """Whatever a test has done: what a node has written fits the published schemas."""
        for task in self.tasks():
            if "run" in task.document:
                self._check("task", task.document)
        for batch in self.store.find_batches():
            self._check("batch", batch)
        for node in self.store.nodes():
            if node.is_ours and node.session is not None and "queuetypes" in node.document:
                self._check("node", node.document)

    def _check(self, schema: str, document: Any) -> None:
        plain = plain_document(document, other=self.store.extended_json)
        errors = [error.message for error in jsonschema.Draft202012Validator(schemas.load(schema)).iter_errors(plain)]
        assert not errors, (errors, plain)

    def stop_outside_of_a_commit(self, node: forked.Started) -> None:
        """SIGSTOP. On SQLite, a process that is stopped in the middle of a commit keeps everybody else from writing
        until it goes on or is killed; nobody can take over then (docs/guarantees.md)."""
        stop(node.pid)
        while self._is_file_locked():
            node.send_signal(signal.SIGCONT)
            stop(node.pid)

    def _is_file_locked(self) -> bool:
        if not self.url.startswith("sqlite://"):
            return False
        # Another node's commits are over in a moment; a stopped one's is not.
        connection = sqlite3.connect(self.url.removeprefix("sqlite://"), timeout=1, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            assert "locked" in str(error)
            return True
        finally:
            connection.close()
        return False

    def stop_all(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        if self.state is not None:
            supervisors.end_all_below(self.state)


class Living(Cluster):
    """A cluster whose node n1 lives for many tests, each with plugins and queues of its own."""

    def __init__(self, url: str, store: Store, directory: Path) -> None:
        super().__init__(url, store, directory)
        self._numbers = itertools.count(1)

    def begin(self) -> None:
        self.start("--stop-grace", "0", pace=QUICK_TO_SEE)
        wait_until(lambda: self.store.get_node("n1"), 30, "node n1 never came")

    def end(self) -> None:
        (node,) = self.processes
        node.terminate()
        assert node.wait(30) == 0

    def plugin(self, name: str, program: str, **manifest: Any) -> Path:
        """One that the node knows at once; its name must be new."""
        assert not (self.plugins / name).exists(), f"another test has a plugin {name}"
        home = super().plugin(name, program, **manifest)
        self.look_at_plugins()
        return home

    def own_name(self, name: str) -> str:
        return f"{name}{next(self._numbers)}"

    def look_at_plugins(self) -> None:
        self.processes[0].send_signal(signal.SIGHUP)

    def finish(self, *task_ids: Any) -> None:
        for task_id in task_ids:
            wait_until(lambda one=task_id: statuses.is_finished(self.task(one).status), 60, f"{task_id} never ended")

    def run_one(self, queue: Any, parameters: Any = None, **more: Any) -> Task:
        assert not more, "its node has the options that it has"
        (task_id,) = self.push(queue, {} if parameters is None else parameters)
        self.finish(task_id)
        return self.task(task_id)


@contextlib.contextmanager
def cluster(url: str, store: Store, directory: Path) -> Iterator[Cluster]:
    with _watched(Cluster(url, store, directory)) as one:
        yield one


@contextlib.contextmanager
def living(url: str, store: Store, directory: Path) -> Iterator[Living]:
    with _watched(Living(url, store, directory)) as one:
        one.begin()
        yield one
        one.end()


@contextlib.contextmanager
def _watched(one: AnyCluster) -> Iterator[AnyCluster]:
    try:
        yield one
        one.check_documents()
    finally:
        one.stop_all()
        for log in sorted(one.directory.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()}")  # pytest shows it where the test has failed


@contextlib.contextmanager
def public_plugins(cluster: Cluster) -> Iterator[Path]:
    """From here on the cluster's plugins are where every user of the machine may go, in a directory of their own: those
    of a test are for its user alone, and another session of tests that begins just now makes them so again."""
    with tempfile.TemporaryDirectory(prefix="disbatch-test-", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        cluster.plugins = directory / "plugins"
        cluster.plugins.mkdir()
        yield directory


@contextlib.contextmanager
def cluster_on_sqlite(path: Path, directory: Path) -> Iterator[Cluster]:
    """A cluster on a new SQLite file, for what is only SQLite's."""
    url = f"sqlite://{path}"
    store = open_store(url, SystemClock())
    store.open()
    with cluster(url, store, directory) as one:
        yield one
    store.close()


def documents(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    return [dict(task.document) for task in tasks]
